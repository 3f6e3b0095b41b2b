"""How a training comes to its arithmetic: by rule when short, by timing when long, and then for good."""

import json
from pathlib import Path

import pytest
import torch

from models import probe
from models.data import Steps
from models.fit import fit
from models.objectives import loss_for
from models.probe import Choice, choose, estimated_s
from models.spec import FitSpec, Machine
from models.start import initial_model
from tests.models.shards import examples_spec, stream_spec

LONG = 10_000_000


def chosen(spec: FitSpec) -> Choice:
    spec.work.mkdir(parents=True, exist_ok=True)
    return choose(spec, initial_model(spec), loss_for(spec), lambda: next(iter(Steps(spec).loader(0, 1))), 1)


def test_a_short_training_is_decided_by_rule_and_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_step_s", lambda *_: pytest.fail("a short training was timed"))
    spec = stream_spec(tmp_path)
    assert estimated_s(spec, 1) < 1
    assert not chosen(spec).compiled
    assert chosen(stream_spec(tmp_path, machine=Machine(precision="float32"))).precision == "float32"


@pytest.mark.parametrize(("bf16", "precision"), [(1.19, "bf16"), (1.21, "float32")])
def test_bf16_is_taken_unless_it_is_clearly_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: float, precision: str
) -> None:
    monkeypatch.setattr(probe, "_step_s", lambda *given: bf16 if given[-1] == "bf16" else 1.0)
    choice = chosen(stream_spec(tmp_path, steps=LONG))
    assert choice.precision == precision
    assert choice.reason.startswith(f"a step takes {bf16 * 1000:,.0f} ms in bf16 and 1,000 ms in float32")


def test_compiling_is_chosen_where_it_saves_more_than_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers cost 30 s; float32 compiled takes 1 / 1.2 of the time: 180 s of training save 30."""
    monkeypatch.setattr(probe, "SHORT_S", 0.0)
    machine = Machine(precision="float32")
    for seconds, compiled in ((170.0, False), (190.0, True)):
        monkeypatch.setattr(probe, "_step_s", lambda *_, seconds=seconds: seconds / 100)
        choice = chosen(stream_spec(tmp_path, steps=100, machine=machine))
        assert choice.compiled == compiled, choice.reason
        assert "compiling costs some 30 s and saves some" in choice.reason


def test_labelled_examples_are_never_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_step_s", lambda *_: 1.0)
    assert not chosen(examples_spec(tmp_path, steps=LONG)).compiled
    asked = chosen(examples_spec(tmp_path, machine=Machine(compile=True)))
    assert not asked.compiled and "labelled examples differ in length" in asked.reason


def test_an_equal_training_on_this_machine_chooses_alike_and_is_not_timed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = stream_spec(tmp_path, steps=LONG, cache=tmp_path / "cache")
    monkeypatch.setattr(probe, "_step_s", lambda *given: {"bf16": 3.0, "float32": 1.0}[given[-1]])
    first = chosen(spec)
    monkeypatch.setattr(probe, "_step_s", lambda *_: pytest.fail("timed again"))
    again = chosen(spec.model_copy(update={"seed": 6}))
    assert (again.precision, again.compiled) == (first.precision, first.compiled) == ("float32", True)
    assert again.reason == f"as in an equal training here before ({first.reason})"
    (tmp_path / "cache" / "choices.json").write_text("rubbish")
    monkeypatch.setattr(probe, "_step_s", lambda *_: 1.0)
    assert chosen(spec).precision == "bf16"


def test_the_probe_teaches_nothing_and_draws_nothing(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=LONG)
    model = initial_model(spec)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    spec.work.mkdir()
    choice = choose(spec, model, loss_for(spec), lambda: next(iter(Steps(spec).loader(0, 1))), 1)
    assert "ms in bf16" in choice.reason
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_resume_keeps_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = stream_spec(tmp_path)
    calls = iter([False, False, True])
    assert not fit(spec, stop=lambda: next(calls)).finished
    record = spec.work / "training.json"
    other = {"bf16": "float32", "float32": "bf16"}[json.loads(record.read_text())["bits"]["precision"]]
    begun = json.loads(record.read_text())
    begun["bits"]["precision"] = other
    record.write_text(json.dumps(begun))
    said: list[str] = []
    fit(spec, say=said.append)
    assert not any("Computes in" in line for line in said)
    assert any(f"steps of 8, {other}, " in line for line in said)


@pytest.mark.slow
def test_a_compiled_training_keeps_its_code_and_its_bits(tmp_path: Path) -> None:
    from tests.models.shards import file_bytes

    outputs, reused = [], []
    for name in ("cold", "warm"):
        spec = stream_spec(tmp_path / name, cache=tmp_path / "cache", machine=Machine(precision="bf16", compile=True))
        before = set((tmp_path / "cache").rglob("*.so"))
        fit(spec)
        outputs.append(file_bytes(spec.out))
        reused.append(bool(before) and before == set((tmp_path / "cache").rglob("*.so")))
        torch.compiler.reset()
    assert outputs[0] == outputs[1]
    assert reused == [False, True]
