"""What happens in a training step, as the hooks that Lightning calls: rate, loss, clipping, report, checkpoint.

What must be bit-exact through a kill stays here and in the modules below it, because Lightning's own checkpoints hold
no random states and resume in the middle of an epoch by replaying its loader. Here the step is one integer: batches
(models/order.py) and learning rate (models/optim.py) are functions of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from models.checkpoint import Checkpoint, restore_optimisation, save_checkpoint
from models.data import Batch
from models.foreign import Model
from models.objectives import loss_for
from models.optim import learning_rate, optimizer_for
from models.progress import ProgressFile, Report, now_ms
from models.spec import FitSpec


class Stopped(Exception):
    """The training was asked to stop and has saved its state."""


class Training(pl.LightningModule):
    """The hooks that Lightning calls; `step` counts updates over all processes that ever worked on the spec."""

    def __init__(
        self,
        spec: FitSpec,
        model: Model,
        progress: ProgressFile,
        checkpoint: Checkpoint | None,
        stop: Callable[[], bool],
    ) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.step = checkpoint.step if checkpoint else 0
        self._checkpoint = checkpoint
        self._progress = progress
        self._stop = stop
        self._loss = loss_for(spec)
        self._grad_norm = torch.tensor(0.0)
        self._step_began = time.monotonic()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_for(self.model, self.spec.optimisation)

    def on_train_start(self) -> None:
        if self._checkpoint:
            restore_optimisation(self._checkpoint, self.model, self._optimizer)
        self._step_began = time.monotonic()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._loss(self.model, batch)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._grad_norm = torch.nn.utils.clip_grad_norm_(learning, self.spec.optimisation.clip, foreach=True)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        loss, grad_norm = float(outputs["loss"]), float(self._grad_norm)
        rate = self._learning_rate()
        self.step += 1
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise FloatingPointError(
                f"At step {self.step} the loss is {loss} and the gradient's norm {grad_norm}: lower learning_rate "
                f"({self.spec.optimisation.learning_rate:g}) or lengthen the warm-up."
            )
        now = time.monotonic()
        speed = batch.tokens_BT.numel() / max(now - self._step_began, 1e-9)
        self._step_began = now
        self._progress.append(Report(self.step, loss, rate, grad_norm, round(speed, 1), now_ms()))
        beat(self.spec.work)
        stopping = self._stop()
        if stopping or self.step == self.spec.steps or self.step % (self.spec.checkpoint_every or 50) == 0:
            self._progress.sync()
            save_checkpoint(self.spec.work / "checkpoints", self.step, self.model, self._optimizer)
            self._step_began = time.monotonic()
        if stopping and self.step < self.spec.steps:
            raise Stopped

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizers[0]

    def _learning_rate(self) -> float:
        return learning_rate(self.step, self.spec.steps, self.spec.optimisation)


def beat(work: Path) -> None:
    """Tell whoever watches that work was just finished. The work itself says so: a thread would beat through a hang."""
    (work / "heartbeat").touch()
