"""How much arithmetic a training asks for, and how much a known GPU can do: model FLOPs utilisation (MFU).

Counted, not measured, so it costs nothing and means the same on every machine; what a run recomputes is not counted.
Light: the supervising parent reads it without importing torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.named import ByName
from models.spec import ForeignConfig, ModelConfig

_DENSE_BF16_TERAFLOPS = (
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("B200", 2250.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("A10", 125.0),
    ("RTX 4090", 165.0),
    ("RTX 3090", 71.0),
    ("MI300X", 1307.0),
)
"""From the makers' data sheets, without sparsity (they print twice that), sums in float32; the longer names first."""


def flops_per_token(config: ModelConfig | ForeignConfig) -> int | None:
    """Floating-point operations of a training step, forward and backward; None for a family whose sizes are not known
    here."""
    count = FLOPS.get(config.family)
    return None if count is None else count(config)


def _of_transformer(config: ModelConfig) -> int:
    """By PaLM's count: 6 N + 12 L H Q T (Chowdhery et al. 2022, appendix B).

    N are the weights that multiply: all but the embedding where it is only looked up (it counts where it is also the
    output layer). L layers, H heads, Q features a head, T tokens of context; the count takes no half off for the causal
    mask, as PaLM's does not.
    """
    attention = 2 * config.width * config.head_width * (config.heads + config.kv_heads)
    mlp = 3 * config.width * config.mlp_width
    outputs = config.vocabulary if config.classes is None else config.classes
    weights = config.layers * (attention + mlp) + outputs * config.width
    return 6 * weights + 12 * config.layers * config.heads * config.head_width * config.context_length


FLOPS: ByName[Callable[[Any], int]] = {"transformer": _of_transformer}
"""What counts the operations a token, by family."""


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations a second of the GPU that torch calls so; None for what is not in the table."""
    words = f" {device_name.replace('-', ' ')} "
    for name, teraflops in _DENSE_BF16_TERAFLOPS:
        if f" {name} " in words:
            return teraflops * 1e12
    return None
