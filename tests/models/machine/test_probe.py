"""How a training comes to its arithmetic: by rule when short or labelled, by timing when long, and then for good."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.fit import fit
from models.learn.initial_weights import initial_model
from models.machine import hardware, probe
from models.machine.compiling import compiled_loss
from models.machine.hardware import Arithmetic
from models.machine.probe import Choice, choose, estimated_s
from models.objectives.losses import loss_for
from models.order.loader import Steps
from models.spec import FitSpec, Machine
from tests.models.shards import TINY, examples_spec, stream_spec

LONG = 10_000_000

Took = dict[Arithmetic, float | None]


@pytest.fixture(autouse=True)
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor under the test has, it is taken to have bf16 units."""
    monkeypatch.setattr(hardware, "bf16_units", lambda: "avx512_bf16")


def chosen(spec: FitSpec) -> Choice:
    spec.work.mkdir(parents=True, exist_ok=True)
    return choose(spec, initial_model(spec), loss_for(spec), lambda: next(iter(Steps(spec).loader(0, 1))), 1)


def step_takes(monkeypatch: pytest.MonkeyPatch, took: Took) -> list[tuple[str, ...]]:
    """Let a step take so many seconds; the arithmetics that are asked for are appended to what is returned."""
    asked: list[tuple[str, ...]] = []

    def time_step(*given: Any) -> Took:
        wanted = given[-2]
        asked.append(wanted)
        return {name: took[name] for name in wanted}

    monkeypatch.setattr(probe, "time_step", time_step)
    return asked


def test_a_short_training_is_decided_by_rule_and_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = step_takes(monkeypatch, {})
    spec = stream_spec(tmp_path)
    assert estimated_s(spec, 1) < 1
    assert (chosen(spec).precision, chosen(spec).compiled) == ("bf16", False)
    assert chosen(stream_spec(tmp_path, machine=Machine(precision="float32"))).precision == "float32"
    assert asked == []


@pytest.mark.parametrize(("bf16", "precision"), [(1.19, "bf16"), (1.21, "float32")])
def test_bf16_is_taken_unless_it_is_clearly_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: float, precision: str
) -> None:
    asked = step_takes(monkeypatch, {"bf16": bf16, "float32": 1.0})
    choice = chosen(stream_spec(tmp_path, steps=LONG))
    assert choice.precision == precision
    assert choice.reason.startswith(f"a step takes {bf16 * 1000:,.0f} ms in bf16 and 1,000 ms in float32")
    assert asked == [("float32", "bf16")]


def test_a_processor_without_units_is_never_tried_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "bf16_units", lambda: None)
    asked = step_takes(monkeypatch, {"float32": 1.0})
    choice = chosen(stream_spec(tmp_path, steps=LONG))
    assert choice.precision == "float32"
    assert choice.reason.startswith("the processor has no bf16 units; compiling")
    assert asked == [("float32",)]
    assert chosen(stream_spec(tmp_path, steps=LONG, machine=Machine(compile=False))).precision == "float32"
    assert len(asked) == 1  # nothing was open


def test_a_trial_that_one_product_shows_to_be_lost_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, model, passes = stream_spec(tmp_path, steps=LONG), initial_model(stream_spec(tmp_path)), []
    spec.work.mkdir()

    def loss(*given: Any) -> Tensor:
        passes.append(torch.is_autocast_enabled("cpu"))
        return loss_for(spec)(*given)

    monkeypatch.setattr(probe, "_is_lost", lambda where: True)
    took = probe.time_step(spec, model, loss, lambda: Steps(spec)[0], ("float32", "bf16"), 0.0)
    assert took["bf16"] is None and took["float32"] is not None
    assert not any(passes)
    step_takes(monkeypatch, took)
    choice = chosen(spec)
    assert choice.precision == "float32" and "over 4 times as long in bf16" in choice.reason


def test_a_pass_or_two_on_a_piece_of_the_batch_is_all_where_the_time_is_short(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, batch=64)
    spec.work.mkdir()
    rows: list[int] = []

    def loss(model: Any, batch: Any) -> Tensor:
        rows.append(len(batch.tokens_BT))
        return loss_for(spec)(model, batch)

    probe.time_step(spec, initial_model(spec), loss, lambda: Steps(spec)[0], ("float32",), 0.0)
    assert rows == [32, 32]  # of 16 tokens


def test_compiling_is_chosen_where_it_saves_more_than_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SHORT_S", 0.0)
    cost, gain = probe._COLD_COMPILE_S["cpu"], probe._GAIN["cpu", "float32"]
    even = cost / (1 - 1 / gain)
    for seconds, compiled in ((0.99 * even, False), (1.01 * even, True)):
        step_takes(monkeypatch, {"float32": seconds / 100})
        choice = chosen(stream_spec(tmp_path, steps=100, machine=Machine(precision="float32")))
        assert choice.compiled == compiled, choice.reason
        assert f"compiling costs some {cost:,.0f} s and saves some" in choice.reason


def test_labelled_examples_are_decided_by_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = step_takes(monkeypatch, {})
    choice = chosen(examples_spec(tmp_path, steps=LONG))
    assert choice == Choice("bf16", False, "the processor has avx512_bf16")
    compiled = chosen(examples_spec(tmp_path, machine=Machine(compile=True)))
    assert not compiled.compiled and "labelled examples differ in length" in compiled.reason
    assert asked == []


def test_a_step_that_was_timed_on_this_machine_is_not_timed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = stream_spec(tmp_path, steps=LONG, cache=tmp_path / "cache")
    asked = step_takes(monkeypatch, {"bf16": 3.0, "float32": 1.0})
    first = chosen(spec)
    again = chosen(spec.model_copy(update={"seed": 6}))
    assert (again.precision, again.compiled) == (first.precision, first.compiled) == ("float32", True)
    assert again.reason == f"as timed by an earlier training here, {first.reason}"
    shorter = chosen(spec.model_copy(update={"steps": LONG // 10}))
    assert shorter.reason.startswith("as timed by an earlier training here, a step takes 3,000 ms in bf16")
    assert len(asked) == 1
    chosen(spec.model_copy(update={"batch": 4}))
    assert len(asked) == 2
    (tmp_path / "cache" / "step-seconds.json").write_text("rubbish")
    chosen(spec)
    assert len(asked) == 3


def test_the_probe_teaches_nothing_and_draws_nothing(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=LONG)
    model = initial_model(spec)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    spec.work.mkdir()
    choice = choose(spec, model, loss_for(spec), lambda: next(iter(Steps(spec).loader(0, 1))), 1)
    assert "ms in float32" in choice.reason
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
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


@pytest.mark.slow
def test_layers_share_one_compiled_block_and_the_loss_is_the_plain_one(tmp_path: Path) -> None:
    cache, libraries = tmp_path / "cache", []
    for layers in (2, 5):
        spec = stream_spec(tmp_path, model=TINY.model_copy(update={"layers": layers}))
        model, batch = initial_model(spec), Steps(spec)[0]
        expected = loss_for(spec)(model, batch)
        torch.compiler.reset()
        found = compiled_loss(spec, model, cache)(model, batch)
        found.backward()
        torch.testing.assert_close(found, expected)
        libraries.append(set(cache.rglob("*.so")))
    assert libraries[0] == libraries[1] != set()
