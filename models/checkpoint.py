"""Saves a training so that a kill at any instant loses nothing but the steps since the last save.

A checkpoint is a folder: weights, optimizer state and random states as safetensors, plain facts as JSON, and a
manifest of SHA-256 hashes. It is written aside, synced, renamed, read back, and only then are older ones removed; two
are kept, so that a damaged newest one costs one interval and not the training. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

KEPT = 2
_PREFIX = "step-"
_ASIDE = ".writing-"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    step: int
    """Updates that its weights have seen."""


def save_checkpoint(root: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Commit the state after `step` updates under `root`, then remove all but the newest two.

    Raises OSError when the disk refuses (what was written aside is swept by the next save), ValueError when the disk
    gives back other bytes than it was given.
    """
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    aside = root / f"{_ASIDE}{step:012d}"
    aside.mkdir()
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
        aside / "model.safetensors",
    )
    save_file(_optimizer_tensors(model, optimizer), aside / "optimizer.safetensors")
    save_file(_random_tensors(), aside / "random.safetensors")
    (aside / "state.json").write_text(json.dumps({"step": step}) + "\n")
    files = sorted(path for path in aside.iterdir())
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
    (aside / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    for path in (*files, aside / _MANIFEST, aside):
        _sync(path)
    final = root / f"{_PREFIX}{step:012d}"
    os.rename(aside, final)
    _sync(root)
    if damage := find_damage(final):
        raise ValueError(f"The checkpoint just written is damaged ({damage}): check the disk of {root}.")
    for old in _folders(root)[:-KEPT]:
        shutil.rmtree(old)
    return Checkpoint(final, step)


def newest_checkpoint(root: Path, at_most: int) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint of at most that many steps; one sentence for each one passed over and removed."""
    passed: list[str] = []
    for folder in reversed(_folders(root)):
        step = int(folder.name.removeprefix(_PREFIX))
        damage = find_damage(folder)
        if damage is None and step <= at_most:
            return Checkpoint(folder, step), passed
        passed.append(f"Checkpoint {folder.name} is not used: {damage or 'its last losses were never reported'}.")
        shutil.rmtree(folder)
    return None, passed


def restore_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Set the model to the checkpoint's weights, in place."""
    model.load_state_dict(load_file(checkpoint.path / "model.safetensors"))


def restore_optimisation(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set the optimizer of that model and all random states to where the checkpoint was taken."""
    _restore_optimizer(load_file(checkpoint.path / "optimizer.safetensors"), model, optimizer)
    _restore_random(load_file(checkpoint.path / "random.safetensors"))


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None: every size and hash is compared with its manifest."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        for name, expected in manifest.items():
            if (folder / name).stat().st_size != expected["bytes"]:
                return f"{name} has the wrong size"
            if _sha256(folder / name) != expected["sha256"]:
                return f"{name} has the wrong hash"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return None


def sweep(root: Path) -> None:
    """Remove what a kill or a full disk left half-written."""
    for path in root.glob(f"{_ASIDE}*"):
        shutil.rmtree(path)


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob(f"{_PREFIX}*"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, nn.Parameter]]:
    """The optimizer's parameters with the model's names for them: indices would change with the grouping."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names[id(parameter)], parameter


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{field}": value.detach().cpu().contiguous()
        for name, parameter in _in_order(model, optimizer)
        for field, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for name, parameter in _in_order(model, optimizer):
        fields = {key.rpartition("/")[2]: value for key, value in tensors.items() if key.rpartition("/")[0] == name}
        optimizer.state[parameter] = {field: value.to(parameter.device) for field, value in fields.items()}


def _random_tensors() -> dict[str, Tensor]:
    """Of torch, of each GPU, of numpy and of Python: whatever a model or a data set may draw from."""
    _, words, _ = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    inner = numpy_state["state"]
    return {
        "torch": torch.get_rng_state(),
        **{f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())},
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.append(inner["key"].astype(np.int64), inner["pos"])),
    }


def _restore_random(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["torch"])
    for index in range(torch.cuda.device_count()):
        if (state := tensors.get(f"cuda.{index}")) is not None:
            torch.cuda.set_rng_state(state, index)
    random.setstate((3, tuple(tensors["python"].tolist()), None))
    words = tensors["numpy"].numpy()
    np.random.set_state(("MT19937", words[:-1].astype(np.uint32), int(words[-1]), 0, 0.0))
