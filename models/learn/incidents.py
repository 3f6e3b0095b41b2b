"""What did not go as every other step: which windows moved nothing, and why. Part of the training's result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from models.spec import FitSpec

FILE = "incidents.json"


@dataclass(frozen=True)
class Incident:
    """A step that was skipped, or a stretch of steps that was taken back."""

    kind: Literal["skip", "rollback"]
    first_step: int
    """Counted from 1."""
    last_step: int
    """Where it was noticed."""
    first_position: int
    """The position of the first window that moved nothing, in the order of the training, counted from 0."""
    last_position: int
    loss: float | None
    """The loss of the last step; None = not a number."""
    grad_norm: float | None
    reason: str

    @classmethod
    def of(
        cls,
        kind: Literal["skip", "rollback"],
        spec: FitSpec,
        steps: tuple[int, int],
        loss: float,
        grad_norm: float,
        reason: str,
    ) -> Incident:
        """The incident of the first to the last of the steps, both counted from 1."""
        first, last = steps
        return cls(
            kind=kind,
            first_step=first,
            last_step=last,
            first_position=(first - 1) * spec.batch,
            last_position=last * spec.batch - 1,
            loss=loss if isfinite(loss) else None,
            grad_norm=grad_norm if isfinite(grad_norm) else None,
            reason=reason,
        )

    def __str__(self) -> str:
        """A sentence for whoever reads the log or the report."""
        one = self.first_step == self.last_step
        steps = f"Step {self.last_step:,} moved" if one else f"Steps {self.first_step:,} to {self.last_step:,} moved"
        windows = f"windows {self.first_position:,} to {self.last_position:,} of the order"
        return f"{steps} nothing ({windows}): {self.reason}."


def read_incidents(folder: Path) -> list[Incident]:
    """The incidents of a trained model, in the order of the steps; a model from elsewhere has none."""
    file = folder / FILE
    return [Incident(**facts) for facts in json.loads(file.read_bytes())] if file.exists() else []


def write_incidents(folder: Path, incidents: Sequence[Incident]) -> None:
    """Write incidents.json, an empty list where nothing happened."""
    (folder / FILE).write_text(json.dumps([asdict(incident) for incident in incidents], indent=2) + "\n")
