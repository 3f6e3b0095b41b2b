"""Any causal or masked language model of `transformers`, trained through the same objectives as ours.

For continued pre-training of what the world has published. Architectures that our transformer equals do not come here
(models/text/identify.py): it computes the same, faster. The price of taking any: the head is theirs and not ours to
split, so masked models compute the logits of every token and not of the hidden 15 in 100 only (see
models/objectives/masked_token.py).

Dropout stays off, whatever the config says: a batch gives the same gradient on any number of devices and after any
resume, and pre-training reads too little twice to over-fit (Geiping and Goldstein 2022, "Cramming", section 4.3).
Weights come from safetensors alone, never from a pickle, and no code from a model's folder is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from models.spec import ForeignConfig
from models.text.attention import padding_apart, positions_within, visible_within
from models.text.identify import OFFSET_POSITIONS, load_config
from models.text.transformer import Transformer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Foreign(nn.Module):
    """A model of `transformers` with the two methods of ours that objectives, scores and samples call."""

    def __init__(self, hub: PreTrainedModel, config: ForeignConfig) -> None:
        super().__init__()
        self.config = config
        self.hub = hub.eval()
        kept = {id(weight): name for name, weight in self.named_parameters()}
        every = self.named_parameters(remove_duplicate=False)
        self._twins = {name: kept[id(weight)] for name, weight in every if kept[id(weight)] != name}
        # Tied weights are one weight: saved once, and found again under both names.
        self.register_state_dict_post_hook(_without_twins)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_twins)  # type: ignore[no-untyped-call]

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None = None, lengths_B: Tensor | None = None) -> Tensor:
        """Token ids, shape (B, T) -> logits, shape (B, T, V), in the place of our model's hidden states.

        Arguments as of our Transformer; not every architecture can keep documents apart (`keeps_documents_apart`).
        """
        causal = self.config.attention == "causal"
        options: dict[str, Any] = {"use_cache": False} if causal else {}
        if documents_BT is not None:
            options["attention_mask"] = visible_within(documents_BT, causal)
            first = 0
            if self.config.architecture in OFFSET_POSITIONS:
                first = self.hub.config.pad_token_id + 1
            options["position_ids"] = first + positions_within(documents_BT)
        elif lengths_B is not None:
            options["attention_mask"] = 1 - padding_apart(lengths_B, tokens_BT.shape[1])
        return self.hub(input_ids=tokens_BT, **options).logits

    def train(self, mode: bool = True) -> Self:
        """As any module's, but without dropout in either mode."""
        super().train(mode)
        self.hub.eval()
        return self

    def logits(self, hidden: Tensor) -> Tensor:
        """What `forward` gave: the head has been passed already."""
        return hidden

    def keeps_documents_apart(self) -> bool:
        """Whether documents that share a window of context_length tokens get the logits that they have alone.

        Tried, not looked up: layers of local attention lose their width under a mask, some architectures have no
        position ids. Costs two passes over one window.
        """
        T = self.config.context_length
        device = next(self.parameters()).device
        tokens_1T = torch.arange(T, device=device)[None] % self.config.vocabulary
        padding = self.hub.config.pad_token_id  # has no place of its own in some architectures
        tokens_1T[tokens_1T == (-1 if padding is None else padding)] = self.config.vocabulary // 2
        cut = max(1, T // 8)
        documents_1T = (torch.arange(T, device=device) >= cut).long()[None]
        try:
            with torch.inference_mode():
                together_1TV = self(tokens_1T, documents_1T)
                alone_1TV = torch.cat((self(tokens_1T[:, :cut]), self(tokens_1T[:, cut:])), dim=1)
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
        return torch.allclose(together_1TV, alone_1TV, rtol=1e-3, atol=1e-4)


Model = Transformer | Foreign
"""What can be pre-trained here."""


def load_foreign(folder: Path, config: ForeignConfig) -> Foreign:
    """The model in the folder, float32, on the CPU; `config.context_length` may be shorter than what it was made for.

    Raises ValueError when the folder is not of that architecture, has no head for that objective, lacks weights, holds
    them as pickles only, needs code of its own, or sees later tokens although it is said to be causal.
    """
    there = load_config(folder, config.attention)
    if not isinstance(there, ForeignConfig) or there.architecture != config.architecture:
        raise ValueError(f"The model in {folder} is {there}, and {config} is asked for.")
    if there.vocabulary != config.vocabulary or there.context_length < config.context_length:
        raise ValueError(
            f"The {there.architecture} in {folder} has {there.vocabulary} tokens and a context of "
            f"{there.context_length}, and {config.vocabulary} and {config.context_length} are asked for."
        )
    hub, report = _from_folder(folder, config)
    if unfit := sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}):
        raise ValueError(
            f"The {config.architecture} in {folder} lacks {len(unfit)} weights of its language model, such as "
            f"{unfit[0]}: take a folder that was saved with its head."
        )
    model = Foreign(hub, config)
    if config.attention == "causal" and _sees_later_tokens(model):
        raise ValueError(
            f"The {config.architecture} in {folder} sees later tokens: it cannot learn to predict them; train it on "
            "masked tokens."
        )
    return model


def empty_foreign(folder: Path, config: ForeignConfig) -> Foreign:
    """The same architecture with weights of no meaning, by the folder's config.json: what a checkpoint is laid into."""
    from transformers import AutoConfig

    described = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return Foreign(_auto_class(config).from_config(described, dtype=torch.float32), config)


def save_foreign(folder: Path, model: Foreign, weights: Mapping[str, Tensor]) -> None:
    """Write config.json, generation_config.json and model.safetensors as `transformers` does.

    Args:
        folder: exists.
        model: gives the architecture.
        weights: as in its state_dict; perhaps gathered from several devices.
    """
    inner = {name.removeprefix("hub."): weight.detach().cpu().contiguous() for name, weight in weights.items()}
    _without_bars()
    model.hub.save_pretrained(folder, state_dict=inner)


def _auto_class(config: ForeignConfig) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForCausalLM if config.attention == "causal" else AutoModelForMaskedLM


def _from_folder(folder: Path, config: ForeignConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    _without_bars()
    try:
        return _auto_class(config).from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError) as error:
        objective = "next" if config.attention == "causal" else "masked"
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The {config.architecture} in {folder} cannot be trained on {objective} tokens: {reason}"
        ) from error


def _without_bars() -> None:
    """A training's stderr is for sentences."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _sees_later_tokens(model: Foreign) -> bool:
    tokens_2T = torch.zeros((2, min(8, model.config.context_length)), dtype=torch.int64)
    tokens_2T[1, -1] = model.config.vocabulary - 1
    with torch.inference_mode():
        one_TV, other_TV = model(tokens_2T)[:, :-1]
    return not torch.allclose(one_TV, other_TV, rtol=1e-3, atol=1e-4)


def _without_twins(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    assert isinstance(module, Foreign)
    for name in module._twins:
        state.pop(prefix + name, None)


def _with_twins(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    assert isinstance(module, Foreign)
    for name, kept in module._twins.items():
        if prefix + kept in state:
            state.setdefault(prefix + name, state[prefix + kept])
