"""Chooses, at a training's first start, the arithmetic and whether to compile, and says why with numbers.

What the processor has decides first: where it has no bf16 units nothing is computed in bf16, since a step that takes
.8 s in float32 takes 25 s of emulation there. A training of under half a minute, or on labelled examples, whose lengths
differ too much to be compiled for, is decided by that rule alone. Any other is timed on a piece of its first batch,
which teaches nothing, for 2 % of the time that the training will take and for two seconds at most, unless two passes
take longer.

A processor is timed by the time that one thread computes, not by the clock: beside other work that takes the cores away
threads wait for each other, and a step of .5 s was seen to last 16.

Timing is not repeatable, bits must be: the choice is kept in the work folder for every resume
(models/process/work_folder.py), and what was measured beside the compiled code, for trainings of the same step on the
same machine.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.files import write_file
from models.machine.flops import flops_per_token
from models.machine.hardware import Arithmetic, bf16_units, cannot_compile, choose_precision, device, machine_name
from models.objectives.losses import Loss
from models.order.batch import Batch
from models.process.heartbeat import beat
from models.spec import FitSpec, TokenStream

SHORT_S = 30.0
"""A training shorter than this by arithmetic is neither timed nor compiled."""
SHARE = 0.02
"""The share of a training's time that timing may take."""
_MOST_S = 2.0
_CLEARLY_SLOWER = 1.2
_LOST = 4.0  # where one product takes so many times as long, no step will be quicker
_PIECE = 512  # tokens that are timed on a processor; a GPU is not busy with less than its whole share
_COLD_COMPILE_S = {"cpu": 40.0, "cuda": 15.0}  # of any number of layers, which share one block's code
_GAIN = {("cpu", "bf16"): 1.3, ("cpu", "float32"): 1.15, ("cuda", "bf16"): 1.4, ("cuda", "float32"): 1.2}
_EAGER_FLOPS = {"cpu": 5e10, "cuda": 5e13}  # a core's, a GPU's: the order of magnitude is enough

Seconds = dict[Arithmetic, float | None]
"""What a step takes; None where it was given up as lost."""


@dataclass(frozen=True)
class Choice:
    """How a training computes."""

    precision: Arithmetic
    compiled: bool
    reason: str
    """For the log."""
    timed_s: float = 0.0
    """Seconds that were spent on finding out."""


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
    if flops_per_token(spec.model) is None or spec.data.kind != "stream" or spec.machine.strategy == "fsdp":
        return ruled  # where the arithmetic is not known, neither is whether timing it pays
    # Where the rule says float32 the machine has no bf16 units: only to look would take minutes.
    contest = spec.machine.precision == "auto" and ruled.precision == "bf16"
    whole_s = estimated_s(spec, processes)
    if not (contest or spec.machine.compile == "auto") or whole_s < SHORT_S:
        return ruled
    wanted: tuple[Arithmetic, ...] = ("float32", "bf16") if contest else (ruled.precision,)
    key = _key(spec, processes)
    known = _remembered(spec.cache, key)
    earlier = all(name in known for name in wanted)
    began = time.monotonic()
    if not earlier:
        known = known | time_step(spec, model, loss, first, wanted, min(SHARE * whole_s, _MOST_S))
        _remember(spec.cache, key, known)
    choice = _by_time(spec, ruled, {name: known[name] for name in wanted})
    if not earlier:
        return replace(choice, timed_s=time.monotonic() - began)
    return Choice(choice.precision, choice.compiled, f"as timed by an earlier training here, {choice.reason}")


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


def _by_time(spec: FitSpec, ruled: Choice, took: Seconds) -> Choice:
    """The choice for a step that takes so long in each arithmetic that is eligible."""
    precision, reason = ruled.precision, ruled.reason
    if len(took) > 1:
        bf16, float32 = took["bf16"], took["float32"]
        assert float32 is not None
        precision = "bf16" if bf16 is not None and bf16 <= _CLEARLY_SLOWER * float32 else "float32"
        in_bf16 = f"over {_LOST:g} times as long" if bf16 is None else f"{bf16 * 1e3:,.0f} ms"
        reason = f"a step takes {in_bf16} in bf16 and {float32 * 1e3:,.0f} ms in float32"
    if spec.machine.compile != "auto":
        return Choice(precision, ruled.compiled, reason)
    seconds = took[precision]
    assert seconds is not None
    whole = seconds * spec.steps
    saved = whole * (1 - 1 / _GAIN[device().type, precision])
    cost = _COLD_COMPILE_S[device().type]
    pays = saved > cost
    if pays and (obstacle := cannot_compile()):
        return Choice(precision, False, f"{reason}; {obstacle}, which would save some {saved:,.0f} s of {whole:,.0f}")
    return Choice(
        precision,
        pays,
        f"{reason}; compiling costs some {cost:,.0f} s and saves some {saved:,.0f} s of {whole:,.0f}",
    )


def time_step(
    spec: FitSpec,
    model: nn.Module,
    loss: Loss,
    first: Callable[[], Batch],
    wanted: tuple[Arithmetic, ...],
    budget_s: float,
) -> Seconds:
    """Seconds of one update's forward and backward passes on this process, the fastest of a few.

    A piece of the batch stands for it, so that the first pass of all, which nothing can cut short, is short; and a
    single product says before that whether bf16 is lost. Each arithmetic has its share of `budget_s`, or two passes
    where these take longer. On a processor one thread computes, and all threads are taken to share its work evenly.
    """
    where = device()
    model.to(where)
    took: Seconds = {}
    threads = torch.get_num_threads() if where.type == "cpu" else 1
    with torch.random.fork_rng(), _one_thread(where):  # a loader draws a seed when it begins
        whole = first()
        rows = len(whole.tokens_BT)
        part = rows if where.type == "cuda" else min(rows, -(-_PIECE // spec.model.context_length))
        piece = Batch(*(tensor if tensor is None else tensor[:part].to(where) for tensor in whole))  # type: ignore[arg-type]
        for precision in wanted:
            beat(spec.work, "starting")
            if precision == "bf16" and len(wanted) > 1 and _is_lost(where):
                took[precision] = None
                continue

            def once(precision: Arithmetic = precision) -> None:
                with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
                    value = loss(model, piece)
                value.backward()

            took[precision] = _fastest_s(once, where, budget_s / len(wanted)) * rows / part / threads * spec.accumulate
    for parameter in model.parameters():
        parameter.grad = None
    return took


@contextmanager
def _one_thread(where: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    if where.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_lost(where: torch.device) -> bool:
    """Whether a product of matrices in bf16, some ms in float32, takes so much longer that the machine emulates it."""
    square = torch.ones(512, 512, device=where)
    half = square.bfloat16()
    return _fastest_s(lambda: half @ half, where, 0.02) > _LOST * _fastest_s(lambda: square @ square, where, 0.02)


def _fastest_s(once: Callable[[], Any], where: torch.device, budget_s: float) -> float:
    """Seconds of a call: the fastest of up to five after the first, or of fewer where the budget ends before."""
    clock = time.monotonic if where.type == "cuda" else time.thread_time
    times: list[float] = []
    began = clock()
    while len(times) < 2 or (len(times) < 6 and clock() - began < budget_s):
        at = clock()
        once()
        if where.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - at)
    return min(times[1:])


def _key(spec: FitSpec, processes: int) -> str:
    """A hash of all that a step's time depends on, and of nothing else: data, rates and lengths are another day's."""
    assert isinstance(spec.data, TokenStream)
    facts = {
        "model": spec.model.model_dump(),
        "objective": spec.data.objective.model_dump(),
        "document_mask": spec.data.document_mask,
        "weights": spec.weights,
        "batch": spec.batch,
        "accumulate": spec.accumulate,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": machine_name(),
        "instructions": [bf16_units(), torch.backends.cpu.get_cpu_capability()],
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _remembered(cache: Path | None, key: str) -> Seconds:
    return _read(cache).get(key, {})


def _remember(cache: Path | None, key: str, took: Seconds) -> None:
    if cache is None:
        return
    cache.mkdir(parents=True, exist_ok=True)
    known = _read(cache) | {key: took}
    write_file(cache / "step-seconds.json", json.dumps(known, indent=1).encode(), durable=False)


def _read(cache: Path | None) -> dict[str, Seconds]:
    """What was measured before; a cache that cannot be read is an empty one."""
    try:
        return json.loads((cache / "step-seconds.json").read_bytes()) if cache else {}
    except (OSError, ValueError):
        return {}
