"""A step is judged before it moves anything: spikes are skipped, losses that are no number are rolled back, and every
checkpoint that is promised stays."""

import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import models.fit
from models.fit import fit
from models.learn.checkpoint import checkpoint_at, find_damage, read_state
from models.objectives.losses import loss_for
from models.order.batch import Batch
from models.order.loader import Steps
from models.spec import FitSpec, Machine, StartingPoint
from models.text.model_folder import load_model
from tests.models.shards import file_bytes, stream_spec
from tests.models.test_fit import after

Change = Callable[[Tensor], Tensor]


def on_steps(spec: FitSpec, changes: dict[int, Change], monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the loss of the steps, counted from 1, that read these windows: it depends on the data alone, as a real
    overflow does, and not on how often or when the step is computed."""
    batches = Steps(spec)
    marked = {batches[step - 1].tokens_BT.numpy().tobytes(): change for step, change in changes.items()}
    whole = loss_for(spec)

    def changed(model: nn.Module, batch: Batch) -> Tensor:
        change: Change = marked.get(batch.tokens_BT.numpy().tobytes(), lambda loss: loss)
        return change(whole(model, batch))

    monkeypatch.setattr(models.fit, "loss_for", lambda spec: changed)


def not_a_number(loss: Tensor) -> Tensor:
    return loss * float("nan")


def large(loss: Tensor) -> Tensor:
    return loss * 50


def plain(folder: Path, steps: int, **changes: Any) -> FitSpec:
    return stream_spec(folder, steps=steps, machine=Machine(precision="float32", compile=False), **changes)


def incidents(spec: FitSpec) -> list[dict[str, Any]]:
    return json.loads((spec.out / "incidents.json").read_bytes())


def test_a_quiet_training_has_no_incident(tmp_path: Path) -> None:
    spec = plain(tmp_path, 20)
    fit(spec)
    assert incidents(spec) == []
    assert not pl.read_parquet(spec.out / "losses.parquet")["skipped"].any()


def test_a_spike_moves_nothing_and_is_told_with_its_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = plain(tmp_path, 90, checkpoint_every=10, milestone_every=10)
    on_steps(spec, {80: large}, monkeypatch)
    said: list[str] = []
    fit(spec.model_copy(update={"checkpoint_every": 1, "milestone_every": 1}), say=said.append)
    (incident,) = incidents(spec)
    assert {
        name: incident[name] for name in ("kind", "first_step", "last_step", "first_position", "last_position")
    } == {
        "kind": "skip",
        "first_step": 80,
        "last_step": 80,
        "first_position": 79 * 8,
        "last_position": 80 * 8 - 1,
    }
    assert "deviations above the median" in incident["reason"]
    assert [line for line in said if line.startswith("Step 80 moved nothing (windows 632 to 639 of the order)")]
    losses = pl.read_parquet(spec.out / "losses.parquet")
    assert losses.filter(pl.col("skipped"))["step"].to_list() == [80]
    before, at = (checkpoint_at(spec.work / "checkpoints", step).path for step in (79, 80))
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (before / file).read_bytes() == (at / file).read_bytes()


def test_the_same_spike_moves_the_weights_where_no_guard_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = plain(tmp_path, 85)
    spec = spec.model_copy(update={"optimisation": spec.optimisation.model_copy(update={"spike_deviations": None})})
    on_steps(spec, {80: large}, monkeypatch)
    fit(spec)
    assert incidents(spec) == []


def test_a_loss_that_is_no_number_goes_back_to_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = plain(tmp_path, 30, checkpoint_every=4)
    on_steps(spec, {11: not_a_number}, monkeypatch)
    said: list[str] = []
    fit(spec, say=said.append)
    (incident,) = incidents(spec)
    assert (incident["kind"], incident["first_step"], incident["last_step"]) == ("rollback", 9, 11)
    assert (incident["first_position"], incident["last_position"]) == (64, 87)
    assert incident["loss"] is None
    assert incident["reason"].endswith("back to the weights of step 8")
    assert any(line.startswith("Steps 9 to 11 moved nothing") for line in said)
    losses = pl.read_parquet(spec.out / "losses.parquet")
    assert losses["step"].to_list() == list(range(1, 31))
    assert losses["loss"].is_nan().sum() == 1 and losses.filter(pl.col("skipped"))["step"].to_list() == [11]
    assert all(bool(torch.isfinite(weight).all()) for weight in load_model(spec.out).parameters())


@pytest.mark.parametrize("stops", [(8,), (10,), (9, 1), (11,), (12,), (20,)])
def test_a_stop_before_or_after_a_rollback_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, ...]
) -> None:
    whole = plain(tmp_path / "whole", 30, checkpoint_every=4)
    on_steps(whole, {11: not_a_number}, monkeypatch)
    fit(whole)
    parts = plain(tmp_path / "parts", 30, checkpoint_every=4)
    for steps in stops:
        assert not fit(parts, stop=after(steps)).finished
    fit(parts)
    assert file_bytes(parts.out) == file_bytes(whole.out)


def test_one_rollback_after_another_goes_further_back_and_the_third_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = plain(tmp_path, 40, checkpoint_every=4, milestone_every=4)
    on_steps(spec, {18: not_a_number, 19: not_a_number}, monkeypatch)
    fit(spec)
    assert [(i["first_step"], i["last_step"]) for i in incidents(spec)] == [(17, 18), (13, 19)]

    again = plain(tmp_path / "again", 40, checkpoint_every=4, milestone_every=4)
    on_steps(again, dict.fromkeys(range(18, 22), not_a_number), monkeypatch)
    with pytest.raises(FloatingPointError, match=r"At step 21 the loss is nan .*after 3 rollbacks: lower"):
        fit(again)


def test_the_guards_memory_survives_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plain(tmp_path / "whole", 90)
    on_steps(whole, {80: large}, monkeypatch)
    fit(whole)
    parts = plain(tmp_path / "parts", 90)
    assert not fit(parts, stop=after(75)).finished
    fit(parts)
    assert len(incidents(parts)) == 1
    assert file_bytes(parts.out) == file_bytes(whole.out)


def test_milestones_and_the_trunk_outlive_the_newest_two(tmp_path: Path) -> None:
    spec = plain(tmp_path, 30, checkpoint_every=3, milestone_every=9, keep_trunk=True)
    fit(spec)
    kept = sorted(int(folder.name.removeprefix("step-")) for folder in (spec.work / "checkpoints").iterdir())
    assert kept == [9, 18, 20, 27, 30]  # the cooldown begins after step 20
    assert find_damage(spec.out / "trunk") is None
    assert json.loads((spec.out / "trunk" / "state.json").read_bytes())["step"] == 20


def test_a_trunk_is_gone_on_from_with_its_optimizer(tmp_path: Path) -> None:
    """Twenty steps at a constant rate, kept as a trunk, and ten more are thirty without a break, but for the order."""
    first = plain(tmp_path / "first", 30, keep_trunk=True)
    fit(first)
    trunk = StartingPoint(folder=first.out / "trunk", digest="of-the-trunk", trunk=True)
    going_on = plain(tmp_path / "second", 16, start=trunk, keep_trunk=True, milestone_every=1)
    settings = going_on.optimisation.model_copy(update={"warmup_steps": 0})
    going_on = going_on.model_copy(update={"optimisation": settings})
    fit(going_on)
    losses = pl.read_parquet(going_on.out / "losses.parquet")
    trained = pl.read_parquet(first.out / "losses.parquet")
    assert losses["loss"][0] < trained["loss"][10]  # it does not begin anew
    moved = checkpoint_at(going_on.work / "checkpoints", 1)
    state = read_state(moved)
    assert (state.step, state.trunk_steps) == (1, 20)
    from safetensors.torch import load_file

    counts = {float(v) for n, v in load_file(moved.path / "optimizer.safetensors").items() if n.endswith("/step")}
    assert counts == {21.0}
    assert read_state(checkpoint_at(going_on.work / "checkpoints", 6)).trunk_steps == 20


def test_a_damaged_trunk_is_refused(tmp_path: Path) -> None:
    first = plain(tmp_path / "first", 12, keep_trunk=True)
    fit(first)
    (first.out / "trunk" / "optimizer.safetensors").write_bytes(b"rubbish")
    trunk = StartingPoint(folder=first.out / "trunk", digest="x", trunk=True)
    with pytest.raises(ValueError, match=r"trunk .* cannot be gone on from: optimizer.safetensors has the wrong size"):
        fit(plain(tmp_path / "second", 12, start=trunk))


def test_pieces_of_a_batch_move_the_weights_as_the_whole(tmp_path: Path) -> None:
    whole, pieces = plain(tmp_path / "whole", 12), plain(tmp_path / "pieces", 12, accumulate=4)
    fit(whole)
    fit(pieces)
    one, other = (pl.read_parquet(spec.out / "losses.parquet") for spec in (whole, pieces))
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-4)
    np.testing.assert_allclose(one["grad_norm"], other["grad_norm"], rtol=1e-3)


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"algorithm": "muon"}])
def test_other_ways_to_move_resume_to_the_same_bits(tmp_path: Path, changes: dict[str, Any]) -> None:
    def make(folder: Path) -> FitSpec:
        spec = plain(folder, 24, accumulate=changes.get("accumulate", 1))
        settings = spec.optimisation.model_copy(update={"algorithm": changes.get("algorithm", "adamw")})
        return spec.model_copy(update={"optimisation": settings})

    whole, parts = make(tmp_path / "whole"), make(tmp_path / "parts")
    fit(whole)
    assert not fit(parts, stop=after(7)).finished
    assert not fit(parts, stop=after(6)).finished
    assert fit(parts).finished
    assert file_bytes(parts.out) == file_bytes(whole.out)


def test_without_a_number_of_steps_a_checkpoint_is_taken_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import models.learn.training

    monkeypatch.setattr(models.learn.training, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(models.learn.training, "_SAVING_SHARE", 1.0)
    spec = plain(tmp_path, 20, checkpoint_every=None)
    assert not fit(spec, stop=after(19)).finished
    kept = len(list((spec.work / "checkpoints").glob("step-*")))
    assert kept in (2, 3)  # two that were due, and the stop's own where that was not


def test_a_disk_that_refuses_a_save_does_not_end_a_healthy_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plain(tmp_path / "whole", 30, checkpoint_every=4)
    fit(whole)
    spec = plain(tmp_path / "refused", 30, checkpoint_every=4)
    (spec.work / "checkpoints").mkdir(parents=True)
    (spec.work / "checkpoints" / ".writing-000000000008").write_text("in the way")  # no folder: rmtree refuses it
    said: list[str] = []
    fit(spec, say=said.append, stop=lambda: _clear(spec) and False)
    assert [line for line in said if line.startswith("The checkpoint of step 4 could not be written (")]
    assert file_bytes(spec.out) == file_bytes(whole.out)


def _clear(spec: FitSpec) -> bool:
    """Make room once the first refusal is behind: from step 6 on."""
    progress = spec.work / "progress.jsonl"
    if progress.exists() and len(progress.read_bytes().splitlines()) >= 6:
        (spec.work / "checkpoints" / ".writing-000000000008").unlink(missing_ok=True)
    return True


def test_a_disk_that_is_full_is_told_and_tried_again(tmp_path: Path) -> None:
    """The limit on a file's size refuses what a full disk does, without one: safetensors tells both in its own way."""
    whole = plain(tmp_path / "whole", 30, checkpoint_every=4)
    fit(whole)
    spec = plain(tmp_path / "full", 30, checkpoint_every=4)
    said: list[str] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    steps = iter(range(1, 31))

    def stop() -> bool:  # asked after every step
        full = next(steps) < 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if full else before[0], before[1]))
        return False

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        fit(spec, say=said.append, stop=stop)
    finally:
        signal.signal(signal.SIGXFSZ, ignored)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused = [line for line in said if "could not be written (File too large)" in line]
    assert [line.split(" could")[0] for line in refused] == ["The checkpoint of step 4", "The checkpoint of step 8"]
    assert sorted(path.name for path in (spec.work / "checkpoints").iterdir()) == [
        "step-000000000028",
        "step-000000000030",
    ]
    assert file_bytes(spec.out) == file_bytes(whole.out)
