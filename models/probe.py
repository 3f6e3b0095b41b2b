"""Chooses, at a training's first start, the arithmetic and whether to compile, and says why with numbers.

A training of under half a minute is decided by rule: timing would cost more than it saves, and tiny runs stay the same
everywhere. A longer one is timed for some steps that teach nothing, a few seconds each: with 4 layers of width 256 on
2 cores a step takes 320 ms in bf16 and 144 ms compiled, after 57 s of a first compilation (3.5 s with the code of an
earlier night).

Timing is not repeatable, bits must be: the choice is kept in the work folder for every resume (models/claim.py), and
beside the compiled code for equal trainings on the same machine.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.data import Batch
from models.flops import flops_per_token
from models.hardware import Arithmetic, cannot_compile, choose_precision, device, machine_name
from models.heartbeat import beat
from models.objectives import Loss
from models.spec import FitSpec, HubModel, ModelConfig

SHORT_S = 30.0
"""A training shorter than this by arithmetic is neither timed nor compiled."""
_CLEARLY_SLOWER = 1.2
_COLD_COMPILE_S = {"cpu": 15.0, "cuda": 6.0}  # a layer
_GAIN = {("cpu", "bf16"): 2.2, ("cpu", "float32"): 1.2, ("cuda", "bf16"): 1.4, ("cuda", "float32"): 1.2}
_EAGER_FLOPS = {"cpu": 5e10, "cuda": 5e13}  # a core's, a GPU's: the order of magnitude is enough
_TIMED_S = 5.0  # for each arithmetic, after the first step


@dataclass(frozen=True)
class Choice:
    """How a training computes."""

    precision: Arithmetic
    compiled: bool
    reason: str
    """For the log."""


def choose(
    spec: FitSpec,
    model: nn.Module,
    loss: Loss,
    first: Callable[[], Batch],
    processes: int,
) -> Choice:
    """What the settings ask for; where they leave it open, what the machine does best.

    Args:
        model: is moved to the device; its weights and the random states are left as they are.
        first: gives a piece of a batch of this process.
        processes: how many share the work; their communication is not timed.
    """
    ruled = _by_rule(spec)
    if isinstance(spec.model, HubModel):
        return ruled  # its arithmetic is not known, nor whether it makes one graph
    open_questions = spec.machine.precision == "auto" or spec.machine.compile == "auto"
    if not open_questions or spec.machine.strategy == "fsdp" or estimated_s(spec, processes) < SHORT_S:
        return ruled
    key = _key(spec, processes)
    if known := _remembered(spec.cache, key):
        return Choice(known.precision, known.compiled, f"as in an equal training here before ({known.reason})")
    choice = _by_time(spec, ruled, lambda precision: _step_s(spec, model, loss, first, precision))
    _remember(spec.cache, key, choice)
    return choice


def estimated_s(spec: FitSpec, processes: int) -> float:
    """Seconds that the whole training takes, uncompiled, to within a factor of a few."""
    kind = device().type
    rate = _EAGER_FLOPS[kind] * (torch.get_num_threads() if kind == "cpu" else 1) * processes
    flops = flops_per_token(spec.model)
    assert flops is not None
    return flops * spec.model.context_length * spec.batch * spec.steps / rate


def _by_rule(spec: FitSpec) -> Choice:
    precision, reason = choose_precision(spec.machine.precision)
    if spec.data.kind != "stream" and spec.machine.compile is True:
        return Choice(precision, False, f"{reason}; not compiled: labelled examples differ in length")
    if spec.machine.compile is True and (obstacle := cannot_compile()):
        raise ValueError(f"The training cannot be compiled as asked: {obstacle}. Install one or set compile to false.")
    return Choice(precision, spec.machine.compile is True, reason)


def _by_time(spec: FitSpec, ruled: Choice, step_s: Callable[[Arithmetic], float]) -> Choice:
    precision, reason = ruled.precision, ruled.reason
    if spec.machine.precision == "auto":
        took = {name: step_s(name) for name in ("float32", "bf16")}
        precision = "bf16" if took["bf16"] <= _CLEARLY_SLOWER * took["float32"] else "float32"
        seconds = took[precision]
        reason = f"a step takes {took['bf16'] * 1e3:,.0f} ms in bf16 and {took['float32'] * 1e3:,.0f} ms in float32"
    else:
        seconds = step_s(precision)
    if spec.machine.compile != "auto" or spec.data.kind != "stream":
        return Choice(precision, ruled.compiled, reason)
    whole = seconds * spec.steps
    saved = whole * (1 - 1 / _GAIN[device().type, precision])
    assert isinstance(spec.model, ModelConfig)
    cost = _COLD_COMPILE_S[device().type] * spec.model.layers
    obstacle = cannot_compile()
    pays = saved > cost
    if pays and obstacle:
        return Choice(precision, False, f"{reason}; {obstacle}, which would save some {saved:,.0f} s of {whole:,.0f}")
    return Choice(
        precision,
        pays,
        f"{reason}; compiling costs some {cost:,.0f} s and saves some {saved:,.0f} s of {whole:,.0f}",
    )


def _step_s(
    spec: FitSpec,
    model: nn.Module,
    loss: Loss,
    first: Callable[[], Batch],
    precision: Arithmetic,
) -> float:
    """Seconds of one update's forward and backward passes on this process; the fastest of a few."""
    where = device()
    model.to(where)
    times: list[float] = []
    with torch.random.fork_rng():  # a loader draws a seed when it begins
        batch = Batch(*(tensor if tensor is None else tensor.to(where) for tensor in first()))  # type: ignore[arg-type]
        began = time.monotonic()
        while len(times) < 2 or (len(times) < 6 and time.monotonic() - began < _TIMED_S):
            at = time.monotonic()
            with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
                value = loss(model, batch)
            value.backward()
            value.item()  # waits for a GPU
            if where.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic() - at)
            beat(spec.work, "starting")
    for parameter in model.parameters():
        parameter.grad = None
    return min(times[1:]) * spec.accumulate


def _key(spec: FitSpec, processes: int) -> str:
    """Of all that the choice depends on, and of nothing else: data and rates are another day's."""
    facts = {
        "model": spec.model.model_dump(),
        "data": spec.data.kind,
        "steps": spec.steps,
        "batch": spec.batch,
        "accumulate": spec.accumulate,
        "machine": spec.machine.model_dump(exclude={"devices"}),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": machine_name(),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _remembered(cache: Path | None, key: str) -> Choice | None:
    known = _read(cache).get(key)
    return Choice(**known) if known else None


def _remember(cache: Path | None, key: str, choice: Choice) -> None:
    if cache is None:
        return
    cache.mkdir(parents=True, exist_ok=True)
    aside = cache / f"choices.json.{key[:16]}"
    aside.write_text(json.dumps(_read(cache) | {key: asdict(choice)}, indent=1))
    aside.replace(cache / "choices.json")


def _read(cache: Path | None) -> dict[str, dict[str, Any]]:
    """What was chosen before; a cache that cannot be read is an empty one."""
    try:
        return json.loads((cache / "choices.json").read_bytes()) if cache else {}
    except (OSError, ValueError):
        return {}
