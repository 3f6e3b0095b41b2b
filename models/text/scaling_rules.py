"""A model and its training from two things a person knows, a size and a number of tokens, by published rules.

One dial instead of seven: the batch, learning rate, weight decay, warm-up and cooldown that nobody sets are derived
here, each with a sentence that says from what, for the log and the plan. The laws were fitted on models of 60 M weights
and more; below that they are an extrapolation.

Light on purpose, as models/spec.py: no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Literal, NamedTuple

from models.named import ByName
from models.spec import ModelConfig, Optimisation

HIGHEST_RATE = 2.0**-7
"""The largest rate that is derived: for a small model of many tokens the law goes on to rates at which it would diverge
(2 layers of width 128 and 10^9 tokens: 0.1)."""


COOLDOWN = 0.2
"""Share of the steps (Hägele et al. 2024)."""


class Size(NamedTuple):
    """The few numbers from which a standard model follows."""

    layers: int
    width: int
    context_length: int
    """Tokens a window, where nobody asks for another number."""

    def shape(self, attention: Literal["causal", "bidirectional"]) -> dict[str, int]:
        """Layers, width, heads, kv_heads and context_length.

        64 features a head, as BERT and GPT-2. Grouped key and value heads shrink the cache of generation (Ainslie et
        al. 2023, "GQA"), which a bidirectional model does not have: there each head has its own, and in a causal one
        two share, as in Qwen3's smaller models.
        """
        heads = self.width // 64
        shared = attention == "causal" and heads % 2 == 0
        return {**self._asdict(), "heads": heads, "kv_heads": heads // 2 if shared else heads}


SIZES: ByName[Size] = {
    "tiny": Size(2, 128, 256),
    "mini": Size(4, 256, 256),
    "small": Size(4, 512, 512),
    "medium": Size(8, 512, 512),
    "base": Size(12, 768, 1024),
    "large": Size(24, 1024, 1024),
    "xl": Size(24, 2048, 2048),
}
"""Layers and width of BERT's miniatures (Turc et al. 2019, "Well-Read Students Learn Better", table 1), of BERT itself
(base, large), and one of 1.3 G weights."""


def standard_model(
    name: str,
    vocabulary: int,
    *,
    context_length: int | None = None,
    attention: Literal["causal", "bidirectional"] = "causal",
    tied: bool = True,
) -> ModelConfig:
    """The model of that name in `SIZES`. Raises ValueError for a name that is not there."""
    if name not in SIZES:
        raise ValueError(f"There is no size {name!r}: choose one of {', '.join(SIZES)}.")
    chosen = SIZES[name].shape(attention)
    chosen["context_length"] = context_length or chosen["context_length"]
    return ModelConfig.sized(vocabulary=vocabulary, attention=attention, tied=tied, **chosen)


def hidden_weights(model: ModelConfig) -> int:
    """Weights but for embedding and output layer: the N of the scaling laws."""
    attention = 2 * model.width * model.head_width * (model.heads + model.kv_heads)
    if model.qk_norm:
        attention += 2 * model.head_width
    return model.layers * (attention + 3 * model.width * model.mlp_width + 2 * model.width) + model.width


def all_weights(model: ModelConfig) -> int:
    """Weights of the language model; a tied embedding counts once."""
    return hidden_weights(model) + (1 if model.tied else 2) * model.vocabulary * model.width


@dataclass(frozen=True)
class Derived:
    """How a training is paced, and in `because` one sentence for each setting that a rule gives, by its name."""

    tokens: int
    """To learn from, repetitions counted."""
    batch: int
    """Windows an update."""
    steps: int
    optimisation: Optimisation
    because: dict[str, str]


def derived(model: ModelConfig, tokens: int | None = None, batch: int | None = None) -> Derived:
    """Settings for that model and that many tokens; what is given is kept, and the rest fits it.

    Batch and rate: Li et al. 2025, "Predictable Scale: Part I, Step Law" (arXiv 2503.04715). Muon takes AdamW's rate
    and decay (Liu et al. 2025, "Muon is Scalable for LLM Training"). Tokens without a budget: Hoffmann et al. 2022.
    Warm-up: Porian et al. 2024, "Resolving Discrepancies in Compute-Optimal Scaling of Language Models". Cooldown:
    Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations". Weight decay has
    laws too (Bergsma et al. 2025, "Power Lines"), but fitted with rates of another rule than Step Law's.

    The same numbers on every machine: powers are rounded to two digits. Raises ValueError for a number below one.
    """
    for name, given in (("tokens", tokens), ("batch", batch)):
        if given is not None and given < 1:
            raise ValueError(f"{name} must be at least 1, not {given}.")
    because: dict[str, str] = {}
    weights, hidden, T = all_weights(model), hidden_weights(model), model.context_length

    because["tokens"] = "as asked" if tokens else f"20 a weight of {weights:,} (Hoffmann et al. 2022, Chinchilla)"
    tokens = tokens or 20 * weights

    best = 0.58 * tokens**0.571
    because["batch"] = (
        "as asked"
        if batch
        else f"the power of two of windows of {T} nearest to 0.58 D^0.571 = {_two_digits(best):,.0f} tokens "
        f"(Step Law, Li et al. 2025, for D = {tokens:,} tokens)"
    )
    batch = batch or _power_of_two(best / T)
    steps = max(1, tokens // (batch * T))
    because["steps"] = f"{tokens:,} tokens in batches of {batch} x {T}"

    rate = 1.79 * hidden**-0.713 * tokens**0.307
    because["learning_rate"] = f"1.79 N^-0.713 D^0.307 (Step Law, for N = {hidden:,} hidden weights)"
    if rate > HIGHEST_RATE:
        because["learning_rate"] += f", but at most {HIGHEST_RATE:.2g}"
    because["weight_decay"] = "0.1 for every size, as GPT-3 (Brown et al. 2020, appendix B)"

    tenth, porian = steps // 10, round(weights / (batch * T))
    warmup_steps = max(1, min(tenth, porian))
    because["warmup_steps"] = (
        "a tenth of the steps, since one token a weight (Porian et al. 2024) would be more"
        if porian > tenth
        else "one token a weight (Porian et al. 2024)"
    )
    cooldown_steps = round(COOLDOWN * steps)
    because["cooldown_steps"] = "a fifth of the steps (Hägele et al. 2024)"
    if model.attention == "bidirectional":
        for name in ("batch", "learning_rate"):
            because[name] += "; a law of next-token models, taken over for want of one for masked tokens"
    return Derived(
        tokens=tokens,
        batch=batch,
        steps=steps,
        optimisation=Optimisation(
            learning_rate=_two_digits(min(rate, HIGHEST_RATE)),
            weight_decay=0.1,
            warmup_steps=warmup_steps,
            cooldown_steps=cooldown_steps,
        ),
        because=because,
    )


def _two_digits(value: float) -> float:
    """Rounded to two significant digits: powers may differ in the last bit between C libraries, and settings are
    hashed."""
    return float(f"{value:.1e}")


def _power_of_two(value: float) -> int:
    """The nearest in ratio, at least 1: it divides into pieces and over devices."""
    return 1 << round(log2(max(value, 1.0)))
