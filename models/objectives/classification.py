"""Each sequence has one class of several, learnt from labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.order.batch import Batch

if TYPE_CHECKING:
    from models.machine.hardware import Arithmetic
    from models.order.examples import Examples
    from models.text.transformer import Transformer


def loss(model: Transformer, batch: Batch) -> Tensor:
    """Mean cross entropy in nats over the batch's sequences."""
    hidden_BTD = model(batch.tokens_BT, lengths_B=batch.lengths_B)
    return F.cross_entropy(model.classify(hidden_BTD, batch.lengths_B).float(), batch.targets)


@torch.inference_mode()
def predicted_classes(
    model: Transformer, examples: Examples, precision: Arithmetic, batch: int = 64
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Batches of example indices and their likeliest classes, both of shape (b,), until all are judged.

    Batched by length, so that short documents are not padded to long ones (half the time of batching as they come).
    """
    device = next(model.parameters()).device
    lengths = np.array([examples.read(index).size for index in range(examples.n)])
    by_length = np.argsort(lengths, kind="stable")
    for start in range(0, examples.n, batch):
        indices = by_length[start : start + batch]
        read = examples.batch(indices)
        tokens_BT, lengths_B = read.tokens_BT.to(device), read.lengths_B.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits_BC = model.classify(model(tokens_BT, lengths_B=lengths_B), lengths_B)
        yield indices, logits_BC.float().argmax(dim=1).cpu().numpy()
