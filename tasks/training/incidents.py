"""What went wrong in a training and was dealt with: steps that were skipped, and rollbacks; models/training.py records
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_incidents(folder: Path) -> list[dict[str, Any]]:
    """The incidents of a trained model, in the order of the steps; a model from before they were recorded has none."""
    file = folder / "incidents.json"
    return json.loads(file.read_bytes()) if file.exists() else []


def count_incidents(folder: Path) -> dict[str, int]:
    """How many steps moved nothing, and how often the training went back to an earlier state."""
    kinds = [incident["kind"] for incident in read_incidents(folder)]
    return {"skipped_steps": kinds.count("skipped"), "rollbacks": kinds.count("rollback")}


def told(incident: dict[str, Any]) -> str:
    """An incident as a sentence."""
    where = f"windows {incident['first_position']:,} to {incident['last_position']:,}"
    figures = f"loss {incident['loss']:.4g}, gradient norm {incident['grad_norm']:.4g}"
    if incident["kind"] == "skipped":
        return f"Step {incident['step']:,} moved nothing: {incident['reason']} ({where}; {figures})."
    return (
        f"At step {incident['step']:,} the loss was no number ({figures}): the training went back to step "
        f"{incident['to_step']:,} and left out {where}."
    )
