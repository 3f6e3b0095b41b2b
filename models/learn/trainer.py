"""Hands a training to Lightning's Trainer: precision, devices, and how several processes share the work.

One process: as it is. ddp: Lightning's DDP, each process holds the model and gradients are averaged. fsdp: each
block's weights, gradients and optimizer state are divided among the processes (PyTorch's FSDP2), by plain calls:
Lightning's ModelParallelStrategy would make the same ones, in a hook of the model, and save in a format of its own.
Gradients are then sent after every piece of a batch.
"""

from __future__ import annotations

import logging
import signal
import threading
import warnings

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from models.machine.hardware import Arithmetic, device
from models.machine.ranks import Ranks
from models.order.batch import Batch
from models.spec import FitSpec


def run_trainer(
    training: pl.LightningModule, loader: DataLoader[Batch], spec: FitSpec, precision: Arithmetic, ranks: Ranks
) -> None:
    """Let Lightning call the training's hooks until the loader, in `spec.accumulate` pieces a step, is at its end."""
    with warnings.catch_warnings():
        # Advice on loggers, workers and progress bars that this process does without, knowingly.
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        # A debugging aid that costs 2 % of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        strategy = _strategy(spec, ranks)
        trainer = pl.Trainer(
            accelerator="gpu" if device().type == "cuda" else "cpu",
            devices=ranks.world if isinstance(strategy, DDPStrategy) else 1,
            strategy=strategy,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            accumulate_grad_batches=spec.accumulate,
            max_epochs=1,
            deterministic=True,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[_OwnSignalHandlers()],
        )
        trainer.fit(training, loader)


def is_sharded(spec: FitSpec, ranks: Ranks) -> bool:
    """Whether each process holds a part of the model only."""
    return spec.machine.strategy == "fsdp" and ranks.world > 1


def shard(model: nn.Module, ranks: Ranks) -> None:
    """Divide the model's blocks, and then what is left of it, among the processes, in place."""
    mesh = init_device_mesh(device().type, (ranks.world,))
    for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, those that are divided put together. All processes must call it."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in weights.items()}


def _strategy(spec: FitSpec, ranks: Ranks) -> Strategy | str:
    if ranks.world == 1:
        return "auto"
    if is_sharded(spec, ranks):
        return SingleDeviceStrategy(device=_own_device())
    return DDPStrategy(
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        # Without it DDP regroups its buckets after the first step of a process: the same sum of three or more numbers
        # would be added in another order after a resume than without one.
        find_unused_parameters=ranks.world > 2,
    )


def _own_device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class _OwnSignalHandlers(pl.Callback):
    """Puts this process's signal handlers back over Lightning's, which raises between steps, before a save."""

    def __init__(self) -> None:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
