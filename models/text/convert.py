"""Our weights as a Hugging Face folder (Qwen3, EuroBERT), and back: renaming, no arithmetic, so logits agree.

In float32 on one CPU they agree to the last bit (both directions, tied and untied, 64 and 256 wide, transformers 5.23);
the tests allow 1e-5, since another machine's kernels may sum in another order for our layout than for theirs.

Writes the files itself instead of building a `transformers` model: importing that costs 4 s, and the format is plain
JSON and safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.spec import ModelConfig
from models.text.identify import hub_config, lacking, our_config
from models.text.transformer import Transformer

_OUTSIDE = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
_OUTPUT = {"output.weight": "lm_head.weight"}
_IN_BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
_QK_NORM = {
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
}


def names(config: ModelConfig) -> dict[str, str]:
    """Every weight of a language model of that shape: our name -> Hugging Face's name."""
    in_block = _IN_BLOCK | (_QK_NORM if config.qk_norm else {})
    blocks = {
        f"blocks.{layer}.{ours}": f"model.layers.{layer}.{theirs}"
        for layer in range(config.layers)
        for ours, theirs in in_block.items()
    }
    return _OUTSIDE | blocks | ({} if config.tied else _OUTPUT)


def save_hub_model(
    folder: Path, model: Transformer, *, end_token: int, pad_token: int, mask_token: int | None = None
) -> None:
    """Write config.json, model.safetensors and, if it is causal, generation_config.json of a language model.

    Args:
        folder: exists.
        model: a causal one becomes a Qwen3ForCausalLM, a bidirectional one an EuroBertForMaskedLM.
        end_token: what ends a document; begins one, too.
        pad_token: what fills up a batch.
        mask_token: what hides a token; a bidirectional model needs it.
    """
    causal = model.config.attention == "causal"
    if not causal and mask_token is None:
        raise ValueError("A bidirectional model is saved with the id of its mask token: give mask_token.")
    weights = model.state_dict()
    renamed = {theirs: weights[ours].detach().cpu().contiguous() for ours, theirs in names(model.config).items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", hub_config(model.config, end_token, pad_token, mask_token))
    if causal:
        tokens = {"bos_token_id": end_token, "eos_token_id": end_token, "pad_token_id": pad_token}
        _write_json(folder / "generation_config.json", tokens | {"do_sample": True})


def load_hub_model(folder: Path) -> Transformer:
    """A Qwen3 or EuroBERT folder as our model, in float32; in one file or in several with an index.

    Raises ValueError for an architecture or an option that our model does not have, and for weights that are not there.
    """
    described = json.loads((folder / "config.json").read_bytes())
    if unfit := lacking(described):
        values = ", ".join(f"{name}: {described.get(name)!r}" for name in unfit)
        raise ValueError(f"The model in {folder} is no Qwen3 or EuroBERT with plain attention ({values}).")
    model = Transformer(our_config(described))
    ours = {theirs: ours for ours, theirs in names(model.config).items()}
    weights = model.state_dict()
    left = set(ours)
    for name, weight in _tensors(folder):
        if name in left:
            place = weights[ours[name]]
            if place.shape != weight.shape:
                raise ValueError(f"{name} in {folder} has the shape {tuple(weight.shape)}, not {tuple(place.shape)}.")
            place.copy_(weight)
            left.remove(name)
    if left:
        raise ValueError(f"The model in {folder} lacks {len(left)} of its weights, such as {min(left)}.")
    return model


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the folder, one at a time: a model in bf16 never stands in memory twice."""
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.exists():
        files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    for file in files:
        path = folder / Path(file).name  # an index of other hands names no file elsewhere
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    yield name, tensors.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"The weights in {path} cannot be read ({error}).") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
