"""Which loss a training minimises, by what it learns.

Plain functions of a model and a batch, in static shapes, so that `torch.compile` takes their parts
(models/machine/compiling.py).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from models.named import ByName
from models.objectives import classification, masked_token, next_token
from models.objectives.surprise import Surprise, mean_surprise
from models.order.batch import Batch
from models.spec import FitSpec, LabelledExamples

Loss = Callable[[nn.Module, Batch], Tensor]
"""Mean cross entropy in nats, a float32 scalar."""
LOSSES: ByName[Callable[..., Tensor]] = {
    "next_token": next_token.loss,
    "masked_token": masked_token.loss,
    "classification": classification.loss,
}
"""By what is learnt."""


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
