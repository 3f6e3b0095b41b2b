"""Checkpoints: whole or absent, verified, and restored to the last bit."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from models.learn.checkpoint import (
    Checkpoint,
    State,
    find_damage,
    good_checkpoint,
    newest_checkpoint,
    prune,
    restore_optimisation,
    restore_weights,
    save_checkpoint,
)
from models.learn.optimizers import optimizer_for
from models.machine.ranks import Ranks
from models.spec import Optimisation
from models.text.transformer import Transformer, fresh
from tests.models.shards import TINY

SETTINGS = Optimisation(learning_rate=0.1, warmup_steps=0, cooldown_steps=0)


def trained(seed: int, steps: int = 2) -> tuple[Transformer, torch.optim.Optimizer]:
    model = fresh(TINY, seed)
    optimizer = optimizer_for(model, SETTINGS)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def save(
    root: Path, step: int, model: Transformer, optimizer: torch.optim.Optimizer, regular: bool = True
) -> Checkpoint:
    checkpoint = save_checkpoint(root, State(step, regular=regular), model, optimizer, Ranks())
    prune(root, lambda step: step % 1000 == 0)
    return checkpoint


def step(model: Transformer, optimizer: torch.optim.Optimizer) -> None:
    model(torch.arange(8)[None]).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_restored_training_goes_on_bit_by_bit(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0)
    checkpoint = save(tmp_path, 2, model, optimizer)
    drawn = (torch.rand(3), np.random.rand(3), random.random())
    step(model, optimizer)

    other = fresh(TINY, 99)
    other_optimizer = optimizer_for(other, SETTINGS)
    restore_weights(checkpoint, other)
    restore_optimisation(checkpoint, other, other_optimizer)
    again = (torch.rand(3), np.random.rand(3), random.random())
    step(other, other_optimizer)

    assert torch.equal(drawn[0], again[0]) and np.array_equal(drawn[1], again[1]) and drawn[2] == again[2]
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        for name, value in optimizer.state[one].items():
            assert torch.equal(value, other_optimizer.state[two][name])


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0)
    for number in (3, 12, 100):
        save(tmp_path, number, model, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000000012", "step-000000000100"]
    checkpoint, passed_over = newest_checkpoint(tmp_path, at_most=100)
    assert checkpoint is not None and checkpoint.step == 100 and passed_over == []


def test_what_a_stop_saved_takes_no_regular_ones_place_and_stays_while_it_is_the_newest(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0)
    kept = []
    for number, regular in ((10, True), (20, True), (23, False), (24, False), (30, True)):
        save(tmp_path, number, model, optimizer, regular)
        kept.append(sorted(int(path.name[-4:]) for path in tmp_path.iterdir()))
    assert kept == [[10], [10, 20], [10, 20, 23], [10, 20, 24], [20, 30]]
    assert [good.step for back in (0, 1) if (good := good_checkpoint(tmp_path, back))] == [30, 20]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_newest_one_falls_back_to_the_one_before(tmp_path: Path, file: str, damage: str) -> None:
    model, optimizer = trained(seed=0, steps=1)
    save(tmp_path, 1, model, optimizer)
    step(model, optimizer)
    newest = save(tmp_path, 2, model, optimizer)
    path = newest.path / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-1])
    checkpoint, passed_over = newest_checkpoint(tmp_path, at_most=2)
    assert checkpoint is not None and checkpoint.step == 1
    assert len(passed_over) == 1 and file in passed_over[0]


def test_a_checkpoint_ahead_of_the_reported_losses_is_not_used(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0)
    save(tmp_path, 1, model, optimizer)
    save(tmp_path, 2, model, optimizer)
    checkpoint, passed_over = newest_checkpoint(tmp_path, at_most=1)
    assert checkpoint is not None and checkpoint.step == 1
    assert "never reported" in passed_over[0]


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".writing-000000000001").mkdir()
    (tmp_path / ".writing-000000000001" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".removing-step-000000000000").mkdir()
    assert newest_checkpoint(tmp_path, at_most=10) == (None, [])
    save(tmp_path, 1, *trained(seed=0))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]


def test_an_unreadable_manifest_is_damage(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 1, *trained(seed=0))
    (checkpoint.path / "manifest.json").write_text("[1, 2")
    assert "cannot be read" in (find_damage(checkpoint.path) or "")
