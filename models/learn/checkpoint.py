"""Saves a training so that a kill at any instant loses nothing but the steps since the last save.

A checkpoint is a folder: weights, optimizer state and random states as safetensors, plain facts as JSON, and a
manifest of SHA-256 hashes. It is written aside, synced, renamed, read back, and only then are older ones removed; two
are kept, so that a damaged newest one costs one interval and not the training, and milestones for good. Nothing in it
is ever unpickled. Of a model that is divided among processes each writes its own part, with the place of each part in
the file's header (models/learn/tensors.py), and any number of processes reads what it needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.files import place_folder, sync
from models.learn.incidents import Incident
from models.learn.tensors import Tensors, write_tensors
from models.machine.ranks import Ranks

KEPT = 2
_PREFIX = "step-"
_ASIDE = ".writing-"
_GONE = ".removing-"
_MANIFEST = "manifest.json"
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    step: int
    """Updates that its weights have seen or passed over."""


@dataclass(frozen=True)
class State:
    """The plain facts of a training between two steps."""

    step: int
    trunk_steps: int = 0
    """Steps of the trunk that this training went on from."""
    guard: dict[str, Any] | None = None
    """The memory of the spike guard."""
    incidents: list[Incident] = field(default_factory=list)
    """All so far."""
    rollbacks: int = 0
    """In a row, since the last regular checkpoint."""
    regular: bool = True
    """Whether the schedule of saving asked for it, and no stop or rollback: what a rollback may go back to, so that a
    stop in between does not change where that is."""
    digest: str = ""
    """The digest of the data."""
    world: int = 1
    """Processes that trained."""


def save_checkpoint(
    root: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> Checkpoint:
    """Commit the training's state as a folder under `root`; all processes of the group call it.

    A save of 1 GB takes some 4.3 s: 1.1 writing, .7 syncing, 2.4 hashing what was written and what is read back (one
    core, a disk of 1.4 GB/s); restoring it takes .15.

    Raises OSError when the disk refuses, of any process (what was written aside is removed, as it may be that which
    fills the disk), ValueError when the disk gives back other bytes than it was given.
    """
    aside, final = root / f"{_ASIDE}{state.step:012d}", root / f"{_PREFIX}{state.step:012d}"

    def prepare() -> None:
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        if final.exists():  # it stands, but a disk that refused to sync made it count for nothing
            _discard(final)
        aside.mkdir()

    def write() -> None:
        write_tensors(aside, "model", model_tensors(model), ranks)
        write_tensors(aside, "optimizer", _optimizer_tensors(model, optimizer), ranks)
        write_tensors(aside, "random", _random_tensors(), ranks, own=True)
        if ranks.first:
            (aside / _STATE).write_text(json.dumps(asdict(state)) + "\n")

    def commit() -> None:
        files = sorted(path for path in aside.iterdir())
        manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
        (aside / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in (*files, aside / _MANIFEST, aside):
            sync(path)
        place_folder(aside, final)
        if damage := find_damage(final):
            raise ValueError(f"The checkpoint just written is damaged ({damage}): check the disk of {root}.")

    try:
        for part, act in ((ranks.first, prepare), (True, write), (ranks.first, commit)):
            _together(ranks, act if part else lambda: None)
    except OSError:
        if ranks.first:
            with suppress(OSError):
                sweep(root)
        raise
    return Checkpoint(final, state.step)


def prune(root: Path, milestone: Callable[[int], bool]) -> None:
    """Remove all checkpoints but the newest, the newest two regular ones, and milestones."""
    folders = _folders(root)
    regular = [folder for folder in folders if read_state(Checkpoint(folder, _step(folder))).regular]
    for folder in folders:
        if folder not in (*regular[-KEPT:], folders[-1]) and not milestone(_step(folder)):
            _discard(folder)


def newest_checkpoint(root: Path, at_most: int) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint of at most that many steps; one sentence for each one passed over and removed."""
    passed: list[str] = []
    for folder in reversed(_folders(root)):
        damage = find_damage(folder)
        if damage is None and _step(folder) <= at_most:
            return Checkpoint(folder, _step(folder)), passed
        passed.append(f"Checkpoint {folder.name} is not used: {damage or 'its last losses were never reported'}.")
        _discard(folder)
    return None, passed


def good_checkpoint(root: Path, further_back: int) -> Checkpoint | None:
    """The newest intact regular checkpoint, or one so many further back; None where there is none."""
    found = []
    for folder in reversed(_folders(root)):
        checkpoint = Checkpoint(folder, _step(folder))
        if find_damage(folder) is None and read_state(checkpoint).regular:
            found.append(checkpoint)
    return found[further_back] if further_back < len(found) else None


def checkpoint_at(root: Path, step: int) -> Checkpoint:
    """The intact checkpoint of that step. Raises ValueError where there is none."""
    folder = root / f"{_PREFIX}{step:012d}"
    if damage := find_damage(folder):
        raise ValueError(f"The checkpoint of step {step} in {root} cannot be used: {damage}.")
    return Checkpoint(folder, step)


def open_trunk(folder: Path) -> Checkpoint:
    """The checkpoint in the folder that another training left as its trunk. Raises ValueError where it is damaged."""
    if damage := find_damage(folder):
        raise ValueError(f"The trunk in {folder} cannot be gone on from: {damage}.")
    return Checkpoint(folder, json.loads((folder / _STATE).read_bytes())["step"])


def copy_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """The checkpoint's files in another folder, which is made; by hard links where the file systems allow it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(checkpoint.path.iterdir()):
        (folder / path.name).unlink(missing_ok=True)
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)


def read_state(checkpoint: Checkpoint) -> State:
    """The plain facts of a checkpoint."""
    facts = json.loads((checkpoint.path / _STATE).read_bytes())
    facts["incidents"] = [Incident(**incident) for incident in facts["incidents"]]
    return State(**facts)


def restore_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Set the model to the checkpoint's weights, in place; of a divided model, this process's part."""
    with Tensors(checkpoint.path, "model") as stored, torch.no_grad():
        for name, tensor in model_tensors(model).items():
            stored.read_into(name, tensor)


def restore_optimisation(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, rank: int = 0
) -> None:
    """Set the optimizer of that model and all random states to where the checkpoint was taken."""
    with Tensors(checkpoint.path, "optimizer") as stored:
        fields: dict[str, list[str]] = {}
        for key in stored.names:
            name, _, part = key.rpartition("/")
            fields.setdefault(name, []).append(part)
        for name, parameter in _in_order(model, optimizer):
            optimizer.state[parameter] = {
                part: stored.read_like(f"{name}/{part}", parameter) for part in fields.get(name, ())
            }
    with Tensors(checkpoint.path, "random", own=rank) as stored:
        _restore_random({name: stored.read(name) for name in stored.names})


def seed_random(seed: int, rank: int) -> None:
    """Set all random states for the first step of a training: they are part of the trunk, and equal trainings give
    equal files."""
    mixed = np.random.SeedSequence((seed, rank)).generate_state(3)
    torch.manual_seed(int(mixed[0]))
    np.random.seed(int(mixed[1]))
    random.seed(int(mixed[2]))


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
    for path in (*root.glob(f"{_ASIDE}*"), *root.glob(f"{_GONE}*")):
        shutil.rmtree(path)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and kept buffers by name, each once: a tied weight has the first of its names."""
    seen: dict[int, str] = {}
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if seen.setdefault(id(tensor), name) == name:
            tensors[name] = tensor.detach()
    return tensors


def _discard(folder: Path) -> None:
    """Remove a checkpoint so that a kill in between leaves none that is half there under its name."""
    gone = folder.with_name(f"{_GONE}{folder.name}")
    if gone.exists():
        shutil.rmtree(gone)
    os.rename(folder, gone)
    shutil.rmtree(gone)


def _together(ranks: Ranks, act: Callable[[], None]) -> None:
    """Do it, and raise on all processes if it failed on one: nobody may wait for one that has given up."""
    failure: Exception | None = None
    try:
        act()
    except (OSError, ValueError) as error:
        failure = error
    failed = ranks.add([float(failure is not None)])[0]
    if failure:
        raise failure
    if failed:
        raise OSError("another process could not write its part of the checkpoint")


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob(f"{_PREFIX}*"))


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(_PREFIX))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, nn.Parameter]]:
    """The optimizer's parameters with the model's names for them: indices would change with the grouping."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names[id(parameter)], parameter


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{part}": value
        for name, parameter in _in_order(model, optimizer)
        for part, value in optimizer.state[parameter].items()
    }


def _random_tensors() -> dict[str, Tensor]:
    """The random states of torch, of each GPU, of numpy and of Python: whatever a model or a data set may draw from."""
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
