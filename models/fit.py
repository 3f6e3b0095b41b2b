"""The training process: `python -m models.fit spec.json PARENT_PID`, or `fit(spec)` in a process one already has.

Lightning's Trainer runs the loop (models/learn/trainer.py); what a step is stands in models/learn/training.py. Under
torchrun each process runs this file.

Exit codes: 0 finished; 75 stopped on request and saved, run it again to go on (EX_TEMPFAIL of sysexits.h); 1 failed,
with one sentence as the last line of stderr. The same is told by `outcome.json` in the work folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from models.learn.checkpoint import Checkpoint, checkpoint_at, copy_checkpoint, newest_checkpoint, restore_weights
from models.learn.incidents import write_incidents
from models.learn.initial_weights import initial_model
from models.learn.trainer import is_sharded, run_trainer, shard, whole
from models.learn.training import Stopped, Training
from models.machine.compiling import compiled_loss
from models.machine.flops import peak_flops
from models.machine.hardware import Arithmetic, device, keep_large_blocks, machine_name
from models.machine.out_of_memory import how_to_fit
from models.machine.probe import choose
from models.machine.ranks import Ranks, is_severed, joined, rank_here
from models.objectives.classification import predicted_classes
from models.objectives.losses import Loss, loss_for
from models.order.examples import Examples
from models.order.loader import Steps
from models.order.shards import read_column
from models.process.heartbeat import beat
from models.process.outcome import Outcome, tell
from models.process.progress import NoProgress, Progress, ProgressFile, read_reports
from models.process.work_folder import Bits, Claim, claim
from models.spec import FitSpec, LabelledExamples
from models.text.model_folder import save_config, save_model
from models.text.transformer import Transformer

RESUMABLE = 75


@dataclass(frozen=True)
class FitResult:
    """What `fit` did in this call."""

    first_step: int
    """Steps that were done before."""
    last_step: int
    finished: bool
    """False: stopped on request; call again to go on."""


def fit(
    spec: FitSpec, stop: Callable[[], bool] = lambda: False, say: Callable[[str], None] = lambda line: None
) -> FitResult:
    """Train to the spec's last step, from the newest intact checkpoint in `spec.work`, and write `spec.out`.

    `stop` is asked after every step, `say` hears what a person would want to know. Sets torch's threads and determinism
    and the allocator's habits for the whole process. Under torchrun all processes of the group call it; the first one
    (rank 0) alone reports, speaks and writes `spec.out`.

    Raises ValueError when the work folder belongs to another training or the data cannot be trained on,
    FloatingPointError when the loss is no longer a number, OSError when a disk refuses.
    """
    spec.work.mkdir(parents=True, exist_ok=True)
    with joined() as ranks, claim(spec, ranks) as claimed:
        beat(spec.work, "starting")
        if not ranks.first:
            say = lambda line: None  # noqa: E731
        if claimed.begun:
            torch.set_num_threads(claimed.begun.threads)
        keep_large_blocks()
        batches = Steps(spec)
        model = initial_model(spec)
        progress, checkpoint = _where_it_stood(spec, ranks, say)
        if checkpoint:
            restore_weights(checkpoint, model)
        first_step = checkpoint.step if checkpoint else 0
        loss = loss_for(spec)
        bits = _choices(claimed, model, loss, say)
        say(
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M weights, {batches.order.n:,} samples, "
            f"{spec.steps:,} steps of {spec.batch}, {bits.precision}{', compiled' if bits.compiled else ''}, "
            f"{f'{ranks.world} processes of ' if ranks.world > 1 else ''}{bits.threads} threads"
            + (f"; going on from step {first_step:,}" if first_step else "")
        )
        if is_sharded(spec, ranks):
            shard(model.to(device()), ranks)
        if bits.compiled:
            loss = compiled_loss(spec, model, spec.cache or spec.work)
        training = Training(spec, model, loss, progress, checkpoint, stop, say, ranks)
        try:
            if first_step < spec.steps:
                beat(spec.work, "compiling" if bits.compiled else "starting")
                run_trainer(
                    training,
                    batches.loader(first_step, spec.steps, ranks.rank, ranks.world),
                    spec,
                    bits.precision,
                    ranks,
                )
            weights = whole(model.state_dict())
            if ranks.first:
                _write_results(training, weights, bits.precision, stop)
        except Stopped:
            return FitResult(first_step, training.step, finished=False)
        finally:
            progress.close()
        return FitResult(first_step, spec.steps, finished=True)


def _where_it_stood(spec: FitSpec, ranks: Ranks, say: Callable[[str], None]) -> tuple[Progress, Checkpoint | None]:
    """The record of steps, and the checkpoint to go on from: looked for by the first process, the same for all."""
    if not ranks.first:
        last_step, path, step = ranks.agree((0, "", 0))
        return NoProgress(last_step), Checkpoint(Path(path), step) if path else None
    progress = ProgressFile(spec.work / "progress.jsonl")
    checkpoint, passed_over = newest_checkpoint(spec.work / "checkpoints", at_most=progress.last_step)
    for sentence in passed_over:
        say(sentence)
    ranks.agree((progress.last_step, str(checkpoint.path) if checkpoint else "", checkpoint.step if checkpoint else 0))
    return progress, checkpoint


def _choices(
    claimed: Claim,
    model: nn.Module,
    loss: Loss,
    say: Callable[[str], None],
) -> Bits:
    """How to compute: as the training was begun, or, at its first start, chosen and kept."""
    spec, ranks = claimed.spec, claimed.ranks
    if (begun := claimed.begun) is not None:
        if begun.world != ranks.world:
            say(
                f"Begun with {begun.world} processes and going on with {ranks.world}: the same windows a step, but "
                "sums are rounded otherwise, so not the same bits."
            )
        return begun
    alone = Steps(spec.model_copy(update={"workers": 0}))
    choice = choose(spec, model, loss, lambda: next(iter(alone.loader(0, 1, ranks.rank, ranks.world))), ranks.world)
    timing = f" Timing took {choice.timed_s:.1f} s." if choice.timed_s else ""
    say(f"Computes in {choice.precision}{', compiled' if choice.compiled else ''}: {choice.reason}.{timing}")
    bits = Bits(choice.precision, choice.compiled, torch.get_num_threads(), ranks.world)
    name = machine_name()
    return claimed.keep(bits, {"name": name, "peak_flops": peak_flops(name), "gpu": device().type == "cuda"})


def _write_results(
    training: Training, weights: Mapping[str, Tensor], precision: Arithmetic, stop: Callable[[], bool]
) -> None:
    spec = training.spec
    beat(spec.work, "saving")
    spec.out.mkdir(parents=True, exist_ok=True)
    save_model(spec.out, training.model, weights)
    write_incidents(spec.out, training.incidents)
    reports = [report for report, _ in read_reports(spec.work / "progress.jsonl")]
    assert len(reports) == spec.steps, f"{len(reports)} losses of {spec.steps} steps"
    columns = ("step", "loss", "learning_rate", "grad_norm", "skipped")  # no times: equal trainings give equal files
    pq.write_table(
        pa.table({name: [getattr(r, name) for r in reports] for name in columns}), spec.out / "losses.parquet"
    )
    if spec.keep_trunk:
        copy_checkpoint(checkpoint_at(spec.work / "checkpoints", spec.trunk_step), spec.out / "trunk")
        save_config(spec.out / "trunk", training.model)
    if isinstance(spec.data, LabelledExamples):
        examples = Examples(spec.data.test, None, spec.model.context_length)
        judged = initial_model(spec)
        assert isinstance(judged, Transformer), "a model that has a classification head"
        judged.load_state_dict(weights)
        predicted = np.empty(examples.n, dtype=np.int32)
        for indices, classes in predicted_classes(judged.to(device()), examples, precision):
            predicted[indices] = classes
            beat(spec.work, "evaluating")
            if stop():
                raise Stopped
        doc_ids = pa.chunked_array(read_column(spec.data.test, "doc_id"))
        labels = examples.labels.astype(np.int32)
        pq.write_table(
            pa.table({"doc_id": doc_ids, "label": labels, "predicted": predicted}), spec.out / "predictions.parquet"
        )


def main(arguments: list[str]) -> int:
    """Run the spec in the named file; when the process of the second argument, the parent, is gone, save and end."""
    spec = FitSpec.model_validate_json(Path(arguments[0]).read_bytes())
    parent = int(arguments[1]) if len(arguments) > 1 else None
    ranks = rank_here()
    if ranks.world > 1:  # torchrun mixes the processes' output
        os.dup2(os.open(spec.work / f"stderr-{ranks.rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the last: the terminal was closed
        signal.signal(number, lambda *_: asked.set())

    def stop() -> bool:
        return asked.is_set() or (parent is not None and not _is_above(parent, ranks.world > 1))

    def say(line: str) -> None:
        with contextlib.suppress(OSError):  # a disk that is full of anything must not end the training for a line
            print(line, flush=True)

    try:
        result = fit(spec, stop, say)
    except Exception as error:
        traceback.print_exc()
        sentence = _explain(error, spec, ranks.world)
        print(sentence, file=sys.stderr)
        if not (ranks.world > 1 and is_severed(error)):
            with contextlib.suppress(OSError):  # on a full disk the line above is what is left to read
                tell(spec.work, Outcome("failed", ranks.rank, sentence))
        return 1
    if ranks.first:
        tell(spec.work, Outcome("finished" if result.finished else "stopped", ranks.rank))
    return 0 if result.finished else RESUMABLE


def _is_above(parent: int, launched: bool) -> bool:
    """Whether that process is still this one's parent, or, where torchrun stands between, its grandparent.

    Asked for here, not by prctl(PR_SET_PDEATHSIG): that fires when the parent's *thread* ends.
    """
    above = os.getppid()
    if not launched:
        return above == parent
    try:
        return psutil.Process(above).ppid() == parent
    except psutil.NoSuchProcess:
        return False


def _explain(error: Exception, spec: FitSpec, processes: int) -> str:
    """One line for the person who reads only the last one."""
    text = " ".join(str(error).split()) or type(error).__name__
    gpu = isinstance(error, torch.OutOfMemoryError)
    if gpu or isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"The {'GPU' if gpu else 'machine'}'s memory ran out: {how_to_fit(spec, processes, gpu)}."
    return text if isinstance(error, ValueError | OSError | FloatingPointError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
