"""The training process in process: it learns, resumes to the same bits, and refuses what it cannot go on with."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
import torch

from models.fit import fit
from models.learn.initial_weights import initial_model
from models.process.progress import read_reports
from models.spec import FitSpec, Machine, StartingPoint
from models.text.model_folder import load_model
from tests.models.shards import examples_spec, file_bytes, stream_spec


def after(calls: int) -> Callable[[], bool]:
    """Asks to stop at the given call."""
    left = iter([False] * (calls - 1))
    return lambda: next(left, True)


def test_training_learns_and_reports_every_step_once(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=40)
    result = fit(spec)
    assert (result.first_step, result.last_step, result.finished) == (0, 40, True)
    losses = pl.read_parquet(spec.out / "losses.parquet")
    assert losses.columns == ["step", "loss", "learning_rate", "grad_norm", "skipped"]
    assert losses["step"].to_list() == list(range(1, 41))
    assert losses["loss"][0] > 3.9 and losses["loss"].tail(3).to_numpy().mean() < 2.5
    assert load_model(spec.out).config == spec.model


@pytest.mark.parametrize("precision", ["bf16", "float32"])
@pytest.mark.parametrize("stops", [(1,), (4, 9), (17,), (29, 1, 0)])
def test_a_training_stopped_anywhere_ends_in_the_same_bits(
    tmp_path: Path, precision: Literal["bf16", "float32"], stops: tuple[int, ...]
) -> None:
    whole = stream_spec(tmp_path / "whole", machine=Machine(precision=precision))
    fit(whole)
    parts = stream_spec(tmp_path / "parts", machine=Machine(precision=precision))
    done = 0
    for steps in stops:
        if steps:
            result = fit(parts, stop=after(steps))
            assert (result.first_step, result.finished) == (done, done + steps >= 30)
            done += steps
    assert fit(parts).finished
    assert file_bytes(parts.out) == file_bytes(whole.out)


def test_neither_loader_workers_nor_checkpoints_change_a_bit(tmp_path: Path) -> None:
    plain = stream_spec(tmp_path / "plain", workers=0, checkpoint_every=1000)
    busy = stream_spec(tmp_path / "busy", workers=2, checkpoint_every=1)
    fit(plain)
    fit(busy)
    assert file_bytes(busy.out) == file_bytes(plain.out)


def test_a_damaged_checkpoint_costs_an_interval_and_no_bit(tmp_path: Path) -> None:
    whole = stream_spec(tmp_path / "whole")
    fit(whole)
    spec = stream_spec(tmp_path / "damaged")
    fit(spec, stop=after(14))
    newest = max((spec.work / "checkpoints").iterdir())
    (newest / "optimizer.safetensors").write_bytes(b"rubbish")
    said: list[str] = []
    result = fit(spec, say=said.append)
    assert result.first_step == 12
    assert any("optimizer.safetensors has the wrong size" in line for line in said)
    assert file_bytes(spec.out) == file_bytes(whole.out)
    assert [report.step for report, _ in read_reports(spec.work / "progress.jsonl")] == list(range(1, 31))


def test_other_data_are_refused_on_resume(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    fit(spec, stop=after(3))
    other = spec.model_copy(update={"data": spec.data.model_copy(update={"digest": "another"})})
    with pytest.raises(ValueError, match=r"begun on other data \(digest of-the-shards, now another\)"):
        fit(other)


def test_other_settings_are_refused_on_resume_and_named(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    fit(spec, stop=after(3))
    with pytest.raises(ValueError, match=r"other settings \(seed, steps\)"):
        fit(spec.model_copy(update={"seed": 6, "steps": 31}))


def test_a_resume_keeps_the_threads_it_was_begun_with(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    begun = torch.get_num_threads()
    fit(spec, stop=after(3))
    torch.set_num_threads(begun + 1)
    fit(spec)
    assert torch.get_num_threads() == begun


def test_a_loss_that_is_no_number_ends_the_training_with_a_sentence(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    wild = spec.optimisation.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        fit(spec.model_copy(update={"optimisation": wild}))


def test_a_classifier_learns_and_predicts_every_test_document(tmp_path: Path) -> None:
    spec = examples_spec(tmp_path)
    every_label = spec.data.model_copy(update={"rows": tuple(range(60))})
    assert fit(spec.model_copy(update={"data": every_label})).finished
    predictions = pl.read_parquet(spec.out / "predictions.parquet")
    assert predictions["doc_id"].to_list() == [f"test/{i}" for i in range(60)]
    assert (predictions["label"] == predictions["predicted"]).to_numpy().mean() > 0.9


def test_a_classifier_stopped_anywhere_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = examples_spec(tmp_path / "whole")
    fit(whole)
    parts = examples_spec(tmp_path / "parts")
    assert not fit(parts, stop=after(7)).finished
    assert not fit(parts, stop=after(34)).finished  # while predicting: 33 steps are left
    assert fit(parts).first_step == 40
    assert file_bytes(parts.out) == file_bytes(whole.out)


def test_fine_tuning_starts_from_the_given_weights(tmp_path: Path) -> None:
    base = stream_spec(tmp_path / "base")
    fit(base)
    start = StartingPoint(folder=base.out, digest="of-the-base")
    spec = examples_spec(tmp_path / "tuned", start=start)
    given, pretrained = initial_model(spec).state_dict(), load_model(base.out).state_dict()
    assert all(torch.equal(given[name], weight) for name, weight in pretrained.items())
    twin = initial_model(examples_spec(tmp_path / "tuned"))
    assert torch.equal(given["classifier.weight"], twin.state_dict()["classifier.weight"])


def test_only_the_head_learns_when_asked(tmp_path: Path) -> None:
    spec = examples_spec(tmp_path, weights="head")
    first = initial_model(spec).state_dict()
    fit(spec)
    last = load_model(spec.out).state_dict()
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_a_starting_point_of_another_shape_is_refused(tmp_path: Path) -> None:
    base = stream_spec(tmp_path / "base", steps=1)
    fit(base)
    wider: FitSpec = examples_spec(tmp_path / "tuned", start=StartingPoint(folder=base.out, digest="x"))
    wider = wider.model_copy(update={"model": wider.model.model_copy(update={"mlp_width": 192})})
    with pytest.raises(ValueError, match="has the shape"):
        fit(wider)
