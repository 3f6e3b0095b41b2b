"""What is minimised: the surprise of the next token, of the hidden tokens, or of the class.

Plain functions of a model and a batch, in static shapes, so that `torch.compile` takes their parts
(models/machine/compiling.py). Logits are turned to float32 before the cross entropy: in bf16, with 8 bits of mantissa,
a loss near 5 moves in steps of 1/32. That costs nothing measurable, since torch's bf16 cross entropy turns its
log-probabilities to float32 anyway (processor time of a step within 1 %: 1,024 tokens, 8,192 words, one core).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.named import ByName
from models.order.loader import Batch
from models.spec import FitSpec, LabelledExamples

if TYPE_CHECKING:
    from models.text.foreign import Model
    from models.text.transformer import Transformer

Loss = Callable[[nn.Module, Batch], Tensor]
"""Mean cross entropy in nats, a float32 scalar."""
Surprise = Callable[["Model", Tensor, Tensor], Tensor]
"""What `mean_surprise` is, plain or compiled."""


def loss_for(spec: FitSpec, compiled: Callable[[Surprise], Surprise] | None = None) -> Loss:
    """The loss of the spec's objective; `compiled` is applied to the part of it that is no layer of the model.

    Raises ValueError when the model's attention does not serve the objective: one that sees the next token need not
    predict it.
    """
    if isinstance(spec.data, LabelledExamples):
        return LOSSES[spec.data.task]
    objective = spec.data.objective
    if spec.model.attention != objective.attention:
        raise ValueError(
            f"The objective {objective.kind} needs attention: {objective.attention}, and the model's is "
            f"{spec.model.attention}: change one of them."
        )
    whole = LOSSES[objective.kind]
    if compiled is None:
        return whole
    surprise = compiled(mean_surprise)
    return lambda model, batch: whole(model, batch, surprise)


def mean_surprise(model: Model, states_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross entropy in nats of the targets, given the states that predict them.

    Plain on purpose: with large blocks kept by the allocator (models/machine/hardware.py) torch's chunked
    `linear_cross_entropy` took 350 ms where this takes 105 (4,096 tokens, 8,192 words, bf16, 2 cores).
    """
    return F.cross_entropy(model.logits(states_ND).float(), targets_N)


def next_token_loss(model: Model, batch: Batch, surprise: Surprise = mean_surprise) -> Tensor:
    """Mean cross entropy in nats over all B x T targets."""
    states_BTD = model(batch.tokens_BT, batch.documents_BT)
    return surprise(model, states_BTD.flatten(0, 1), batch.targets.flatten())


def masked_token_loss(model: Model, batch: Batch, surprise: Surprise = mean_surprise) -> Tensor:
    """Mean cross entropy in nats over the B x K hidden tokens.

    Only their logits are computed: at 15 in 100, a step of .9 times the length (4 layers, width 256, 8,192 words).
    """
    assert batch.picked_BK is not None, "a batch of masked windows says which tokens are predicted"
    hidden_BTD = model(batch.tokens_BT, batch.documents_BT)
    return surprise(model, at_positions(hidden_BTD, batch.picked_BK), batch.targets.flatten())


def classification_loss(model: Transformer, batch: Batch) -> Tensor:
    """Mean cross entropy in nats over the batch's sequences."""
    hidden_BTD = model(batch.tokens_BT, lengths_B=batch.lengths_B)
    return F.cross_entropy(model.classify(hidden_BTD, batch.lengths_B).float(), batch.targets)


def at_positions(states_BTD: Tensor, picked_BK: Tensor) -> Tensor:
    """The states at each window's positions, window by window, shape (B x K, D).

    By whole rows: `gather` would want an index for every single feature.
    """
    B, T, _ = states_BTD.shape
    rows_BK = picked_BK + T * torch.arange(B, device=picked_BK.device)[:, None]
    return states_BTD.flatten(0, 1).index_select(0, rows_BK.flatten())


LOSSES: ByName[Callable[..., Tensor]] = {
    "next_token": next_token_loss,
    "masked_token": masked_token_loss,
    "classification": classification_loss,
}
"""By what is learnt."""
