"""The training process: `python -m models.fit spec.json PARENT_PID`, or `fit(spec)` in a process one already has.

Lightning's Trainer runs the loop, the precision, the devices and their strategy; what a step is stands in
models/training.py.

Exit codes: 0 finished; 75 stopped on request and saved, run it again to go on (EX_TEMPFAIL of sysexits.h); 1 failed,
with one sentence as the last line of stderr.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from models.checkpoint import newest_checkpoint, restore_weights
from models.claim import claim
from models.data import Batch, Examples, Steps
from models.foreign import Model
from models.hardware import Arithmetic, device, keep_large_blocks
from models.progress import ProgressFile, read_reports
from models.saved import save_model
from models.score import predicted_classes
from models.shards import read_column
from models.spec import FitSpec, LabelledExamples
from models.start import initial_model
from models.training import Stopped, Training, beat
from models.transformer import Transformer

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
    and the allocator's habits for the whole process.

    Raises ValueError when the work folder belongs to another training or the data cannot be trained on,
    FloatingPointError when the loss is no longer a number, OSError when a disk refuses.
    """
    spec.work.mkdir(parents=True, exist_ok=True)
    with claim(spec, say) as bits:
        torch.set_num_threads(bits.threads)
        keep_large_blocks()
        batches = Steps(spec)
        model = initial_model(spec)
        progress = ProgressFile(spec.work / "progress.jsonl")
        checkpoint, passed_over = newest_checkpoint(spec.work / "checkpoints", at_most=progress.last_step)
        if checkpoint:
            restore_weights(checkpoint, model)
        first_step = checkpoint.step if checkpoint else 0
        for sentence in passed_over:
            say(sentence)
        say(
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M weights, {batches.order.n:,} samples, "
            f"{spec.steps:,} steps of {spec.batch}, {bits.precision}, {bits.threads} threads"
            + (f"; going on from step {first_step:,}" if first_step else "")
        )
        training = Training(spec, model, progress, checkpoint, stop)
        try:
            if first_step < spec.steps:
                _run_trainer(training, batches.loader(first_step, spec.steps), bits.precision)
            _write_results(spec, model, bits.precision, stop)
        except Stopped:
            return FitResult(first_step, training.step, finished=False)
        finally:
            progress.close()
        return FitResult(first_step, spec.steps, finished=True)


def _run_trainer(training: Training, loader: DataLoader[Batch], precision: Arithmetic) -> None:
    steps = len(loader)
    with warnings.catch_warnings():
        # Advice on loggers, workers and progress bars that this process does without, knowingly.
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        # A debugging aid that costs 2 % of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        trainer = pl.Trainer(
            accelerator=device().type,
            devices=1,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_steps=steps,
            deterministic=True,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[_OwnSignalHandlers()],
        )
        trainer.fit(training, loader)


class _OwnSignalHandlers(pl.Callback):
    """Puts this process's signal handlers back over Lightning's, which raises between steps, before a save."""

    def __init__(self) -> None:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                signal.signal(number, handler)


def _write_results(spec: FitSpec, model: Model, precision: Arithmetic, stop: Callable[[], bool]) -> None:
    spec.out.mkdir(parents=True, exist_ok=True)
    save_model(spec.out, model, model.state_dict())
    reports = [report for report, _ in read_reports(spec.work / "progress.jsonl")]
    assert len(reports) == spec.steps, f"{len(reports)} losses of {spec.steps} steps"
    columns = ("step", "loss", "learning_rate", "grad_norm")  # no times: equal trainings give equal files
    pq.write_table(
        pa.table({name: [getattr(r, name) for r in reports] for name in columns}), spec.out / "losses.parquet"
    )
    if isinstance(spec.data, LabelledExamples):
        assert isinstance(model, Transformer), "a model that has a classification head"
        examples = Examples(spec.data.test, None, spec.model.context_length)
        model.to(device())
        predicted = np.empty(examples.n, dtype=np.int32)
        for indices, classes in predicted_classes(model, examples, precision):
            predicted[indices] = classes
            beat(spec.work)
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
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())

    def stop() -> bool:
        # Asked for here, not by prctl(PR_SET_PDEATHSIG): that fires when the parent's *thread* ends.
        return asked.is_set() or (parent is not None and os.getppid() != parent)

    try:
        result = fit(spec, stop, lambda line: print(line, flush=True))
    except Exception as error:
        traceback.print_exc()
        print(_explain(error, spec), file=sys.stderr)
        return 1
    return 0 if result.finished else RESUMABLE


def _explain(error: Exception, spec: FitSpec) -> str:
    """One line for the person who reads only the last one."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return (
            f"Out of memory with batch {spec.batch} and context_length {spec.model.context_length}: lower one of them."
        )
    return text if isinstance(error, ValueError | OSError | FloatingPointError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
