"""What happens in a training step, as the hooks that Lightning calls: rate, loss, clipping, report, checkpoint.

What must be bit-exact through a kill stays here and in the modules below it, because Lightning's own checkpoints hold
no random states and resume in the middle of an epoch by replaying its loader. Here the step is one integer: batches
(models/order.py) and learning rate (models/optim.py) are functions of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from models.checkpoint import Checkpoint, restore_optimisation, save_checkpoint
from models.data import Batch
from models.heartbeat import beat
from models.optim import adamw, learning_rate
from models.progress import Progress, Report, now_ms
from models.spec import FitSpec


class Stopped(Exception):
    """The training was asked to stop and has saved its state."""


class Training(pl.LightningModule):
    """The hooks that Lightning calls; `step` counts updates over all processes that ever worked on the spec."""

    def __init__(
        self,
        spec: FitSpec,
        model: nn.Module,
        loss: Callable[[nn.Module, Batch], Tensor],
        progress: Progress,
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
        self._loss = loss
        self._grad_norm = torch.tensor(0.0)
        self._pieces: list[float] = []
        self._step_began = time.monotonic()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.model.named_parameters(), self.spec.optimisation)

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
        if isinstance(self._grad_norm, DTensor):
            self._grad_norm = self._grad_norm.full_tensor()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._pieces.append(float(outputs["loss"]) * self.spec.accumulate)  # Lightning divides it
        if len(self._pieces) < self.spec.accumulate:
            return
        world = dist.get_world_size() if dist.is_initialized() else 1
        agreed = torch.tensor([sum(self._pieces) / len(self._pieces), float(self._stop())], dtype=torch.float64)
        self._pieces.clear()
        if world > 1:
            dist.all_reduce(agreed)
        loss, grad_norm = float(agreed[0]) / world, float(self._grad_norm)
        rate = self._learning_rate()
        self.step += 1
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise FloatingPointError(
                f"At step {self.step} the loss is {loss} and the gradient's norm {grad_norm}: lower learning_rate "
                f"({self.spec.optimisation.learning_rate:g}) or lengthen the warm-up."
            )
        now = time.monotonic()
        speed = batch.tokens_BT.numel() * self.spec.accumulate * world / max(now - self._step_began, 1e-9)
        self._step_began = now
        self._progress.append(Report(self.step, loss, rate, grad_norm, round(speed, 1), now_ms()))
        if self.global_rank == 0:
            beat(self.spec.work)
        stopping = bool(agreed[1])
        if stopping or self.step == self.spec.steps or self.step % (self.spec.checkpoint_every or 50) == 0:
            self._progress.sync()
            if (not dist.is_initialized() or dist.get_rank() == 0) and not any(
                isinstance(weight, DTensor) for weight in self.model.parameters()
            ):
                beat(self.spec.work, "saving")
                save_checkpoint(self.spec.work / "checkpoints", self.step, self.model, self._optimizer)
            self._step_began = time.monotonic()
        if stopping and self.step < self.spec.steps:
            raise Stopped

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizers[0]

    def _learning_rate(self) -> float:
        return learning_rate(self.step, self.spec.steps, self.spec.optimisation)
