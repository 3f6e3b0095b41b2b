"""What happens in a training step, as the hooks that Lightning calls: rate, loss, verdict, report, checkpoint.

What must be bit-exact through a kill stays here and in the modules below it, because Lightning's own checkpoints hold
no random states and resume in the middle of an epoch by replaying its loader. Here the step is one integer: batches
(models/order/mixture.py) and learning rate (models/learn/optimizers.py) are functions of it.

Every step is judged once, after its gradients are there and before they move anything: by numbers that all processes
share (one small all-reduce a step), so that all decide alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from models.learn.checkpoint import (
    Checkpoint,
    State,
    good_checkpoint,
    open_trunk,
    prune,
    read_state,
    restore_optimisation,
    restore_weights,
    save_checkpoint,
    seed_random,
)
from models.learn.incidents import Incident
from models.learn.optimizers import learning_rate, optimizer_for
from models.learn.spike_guard import SpikeGuard
from models.machine.ranks import Ranks
from models.objectives.losses import Loss
from models.order.batch import Batch
from models.process.heartbeat import beat
from models.process.progress import Progress, Report, now_ms
from models.spec import FitSpec

if TYPE_CHECKING:
    from models.text.foreign import Model

SAVE_EVERY_S = 120.0
"""Between two checkpoints, where the settings do not count steps: what a kill costs."""
_SAVING_SHARE = 0.02  # of the time at most, where saving is slow
ROLLBACKS = 3
"""In a row, without a regular checkpoint between them, before the training gives up."""


class Stopped(Exception):
    """The training was asked to stop and has saved its state."""


@dataclass(frozen=True)
class _Verdict:
    """What is to become of a step; the same on all processes."""

    loss: float
    grad_norm: float
    skip: str | None
    """Why it moves nothing."""
    stop: bool
    due: bool
    """Whether the schedule of saving asks for a checkpoint."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Training(pl.LightningModule):
    """The hooks that Lightning calls; `step` counts updates over all processes that ever worked on the spec."""

    def __init__(
        self,
        spec: FitSpec,
        model: Model,
        loss: Loss,
        progress: Progress,
        checkpoint: Checkpoint | None,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        ranks: Ranks,
    ) -> None:
        super().__init__()
        self.model: Model = model
        self.spec = spec
        state = read_state(checkpoint) if checkpoint else State(0)
        self.step = state.step
        self.incidents = state.incidents
        self._trunk_steps = state.trunk_steps
        self._rollbacks = state.rollbacks
        self._guard = SpikeGuard(spec.optimisation.spike_deviations) if spec.optimisation.spike_deviations else None
        self._checkpoint = checkpoint
        self._loss = loss
        self._progress = progress
        self._stop = stop
        self._say = say
        self._ranks = ranks
        self._pieces: list[Tensor] = []
        self._verdict: _Verdict | None = None
        self._step_began = time.monotonic()
        self._saved_at = time.monotonic()
        self._save_interval_s = SAVE_EVERY_S

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimizer of the spec; Lightning calls it before the training starts, with the model in place."""
        return optimizer_for(self.model, self.spec.optimisation)

    def on_train_start(self) -> None:
        """Set the random states and load what the training goes on from; Lightning calls it before the first batch."""
        seed_random(self.spec.seed, self._ranks.rank)
        if self._checkpoint:
            self._restore(self._checkpoint)
        elif self.spec.start and self.spec.start.trunk:
            trunk = open_trunk(self.spec.start.folder)
            restore_weights(trunk, self.model)
            self._restore(trunk)
            state = read_state(trunk)
            self._trunk_steps = state.trunk_steps + state.step
        self._step_began = self._saved_at = time.monotonic()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the step's learning rate; Lightning calls it before each piece of an update."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a piece of an update, a scalar that Lightning then takes the gradients of."""
        loss = self._loss(self.model, batch)
        self._pieces.append(loss.detach())
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Once an update, when all its gradients are there: clip them, judge the step, drop them if it may not move."""
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(learning, self.spec.optimisation.clip, foreach=True)
        self._verdict = self._judge(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if self._verdict.skip:
            optimizer.zero_grad(set_to_none=True)  # a weight without a gradient is left as it is in every respect

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Report, keep and save the step that an update has made; Lightning calls it after each piece of one.

        Raises:
            Stopped: the training was asked to stop, and its state is saved.
            FloatingPointError: the numbers are not finite, and no rollback is left to try.
            OSError: a checkpoint that the training cannot go on without was refused by the disk.
        """
        verdict = self._verdict
        if verdict is None:
            return  # a piece of an update
        self._verdict = None
        rate = self._learning_rate()
        self.step += 1
        now = time.monotonic()
        tokens = batch.tokens_BT.numel() * self.spec.accumulate * self._ranks.world
        speed = tokens / max(now - self._step_began, 1e-9)
        self._step_began = now
        skipped = verdict.skip is not None
        self._progress.append(
            Report(self.step, verdict.loss, rate, verdict.grad_norm, round(speed, 1), now_ms(), skipped)
        )
        if self._ranks.first:
            beat(self.spec.work)
        if verdict.finite:
            self._stay(verdict)
        else:
            self._roll_back(verdict)
        if verdict.stop and self.step < self.spec.steps:
            raise Stopped

    def _judge(self, grad_norm: Tensor) -> _Verdict:
        """The one moment of a step at which the processes talk and the host waits for the device."""
        local = float(torch.stack(self._pieces).mean())
        self._pieces.clear()
        overdue = self._ranks.first and time.monotonic() - self._saved_at > self._save_interval_s
        loss, stop, due = self._ranks.add([local, float(self._stop()), float(overdue)])
        loss, norm = loss / self._ranks.world, float(grad_norm)
        skip = None
        if not (math.isfinite(loss) and math.isfinite(norm)):
            skip = f"the loss is {loss} and the gradient's norm {norm}"
        elif self._guard:
            skip = self._guard.judge(loss, norm, self.step < self.spec.optimisation.warmup_steps)
        done, every = self.step + 1, self.spec.checkpoint_every
        regular = done % every == 0 if every else due > 0
        regular = regular or done == self.spec.steps or self._is_milestone(done)
        return _Verdict(loss, norm, skip, stop > 0, regular)

    def _stay(self, verdict: _Verdict) -> None:
        """Keep the step, moved or skipped, and save where it is time to."""
        if verdict.skip:
            self._note("skip", self.step, verdict, verdict.skip)
        if verdict.due:
            self._rollbacks = 0
        if verdict.due or verdict.stop:
            needed = verdict.stop or self.step == self.spec.steps or self._is_trunk(self.step)
            self._save(regular=verdict.due, needed=needed)

    def _roll_back(self, verdict: _Verdict) -> None:
        """Go on from the last good checkpoint's weights with the next step; what came between is passed over.

        As PaLM's trainings did by hand (Chowdhery et al. 2022, section 5.1): the windows since that checkpoint are left
        out, since weights and windows together led here and the same again would lead here again. Only here does it
        matter to the result when a checkpoint was taken: one that a stop asked for is not gone back to, but one that
        was due by the clock is.
        """
        good = None
        if self._rollbacks < ROLLBACKS:
            found = good_checkpoint(self._root, self._rollbacks) if self._ranks.first else None
            path = self._ranks.agree(str(found.path) if found else "")
            good = Checkpoint(Path(path), int(path.rpartition("-")[2])) if path else None
        if good is None:
            raise FloatingPointError(
                f"At step {self.step} the loss is {verdict.loss} and the gradient's norm {verdict.grad_norm}"
                + (f", after {self._rollbacks} rollbacks" if self._rollbacks else "")
                + f": lower learning_rate ({self.spec.optimisation.learning_rate:g}) or lengthen the warm-up."
            )
        restore_weights(good, self.model)
        self._restore(good)
        self._rollbacks += 1
        self._note("rollback", good.step + 1, verdict, f"{verdict.skip}; back to the weights of step {good.step}")
        self._save(regular=False, needed=True)

    def _note(self, kind: Any, first_step: int, verdict: _Verdict, reason: str) -> None:
        incident = Incident.of(kind, self.spec, (first_step, self.step), verdict.loss, verdict.grad_norm, reason)
        self.incidents = [*self.incidents, incident]
        self._say(str(incident))

    def _save(self, regular: bool, needed: bool) -> None:
        """Commit a checkpoint. A disk that refuses ends the training only where nothing can go on without it."""
        began = time.monotonic()
        if self._ranks.first:
            beat(self.spec.work, "saving")
        try:
            self._progress.sync()
            save_checkpoint(self._root, self._state(regular), self.model, self._optimizer, self._ranks)
        except OSError as error:
            if needed:
                raise
            self._say(
                f"The checkpoint of step {self.step} could not be written ({error.strerror or error}): the training "
                f"goes on and will try again, but a kill now costs all since the last one; make room in {self._root}."
            )
        else:
            self._prune()
        ended = time.monotonic()
        self._save_interval_s = max(SAVE_EVERY_S, (ended - began) / _SAVING_SHARE)
        self._step_began = self._saved_at = ended

    def _prune(self) -> None:
        if not self._ranks.first:
            return
        try:
            prune(self._root, self._is_milestone)
        except OSError as error:
            self._say(f"Older checkpoints in {self._root} could not be removed ({error}) and take up room there.")

    def _state(self, regular: bool) -> State:
        return State(
            step=self.step,
            trunk_steps=self._trunk_steps,
            guard=self._guard.state() if self._guard else None,
            incidents=self.incidents,
            rollbacks=self._rollbacks,
            regular=regular,
            digest=self.spec.data.digest,
            world=self._ranks.world,
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        restore_optimisation(checkpoint, self.model, self._optimizer, self._ranks.rank)
        guard = read_state(checkpoint).guard
        if self._guard and guard:
            self._guard.load(guard)

    def _is_milestone(self, step: int) -> bool:
        every = self.spec.milestone_every
        return self._is_trunk(step) or bool(every and step % every == 0)

    def _is_trunk(self, step: int) -> bool:
        return self.spec.keep_trunk and step == self.spec.trunk_step

    @property
    def _root(self) -> Path:
        return self.spec.work / "checkpoints"

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizers[0]

    def _learning_rate(self) -> float:
        return learning_rate(self.step, self.spec.steps, self.spec.optimisation)
