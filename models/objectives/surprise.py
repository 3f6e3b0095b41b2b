"""Cross entropy, of a mean and of each target: what all objectives of language modelling are made of.

Logits are turned to float32 before the cross entropy: in bf16, with 8 bits of mantissa, a loss near 5 moves in steps of
1/32. That costs nothing measurable, since torch's bf16 cross entropy turns its log-probabilities to float32 anyway
(processor time of a step within 1 %: 1,024 tokens, 8,192 words, one core).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from models.text.foreign import Model

Surprise = Callable[["Model", Tensor, Tensor], Tensor]
"""What `mean_surprise` is, plain or compiled."""
_LOGITS = 1 << 21
"""Logits held at once: 8 MB."""


def mean_surprise(model: Model, states_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross entropy in nats of the targets, given the states that predict them.

    Plain on purpose: with large blocks kept by the allocator (models/machine/hardware.py) torch's chunked
    `linear_cross_entropy` took 350 ms where this takes 105 (4,096 tokens, 8,192 words, bf16, 2 cores).
    """
    return F.cross_entropy(model.logits(states_ND).float(), targets_N)


def nats_of_each(model: Model, states_ND: Tensor, targets_N: Tensor) -> Tensor:
    """The surprise of each target, in float32; a few rows of logits at a time.

    Blocks of over 32 MB are mapped and faulted in anew whenever they are used: with all logits of 16 x 256 tokens at
    once a pass took 1.5 times as long in float32 (8,192 words, one core).
    """
    rows = max(1, _LOGITS // model.config.vocabulary)
    parts = zip(states_ND.split(rows), targets_N.split(rows), strict=True)
    return torch.cat(
        [F.cross_entropy(model.logits(states).float(), targets, reduction="none") for states, targets in parts]
    )
