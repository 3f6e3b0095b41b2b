"""What one step of a training learns from, and the windows of a corpus that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Batch(NamedTuple):
    """What one step, or one piece of it, learns from; all int64."""

    tokens_BT: Tensor
    """What the model sees, right-padded with zeros."""
    targets: Tensor
    """What it shall say: the next tokens, shape (B, T); the hidden tokens, (B, K); or one class a sequence, (B,)."""
    lengths_B: Tensor
    """Tokens that are no padding."""
    picked_BK: Tensor | None = None
    """Where the hidden tokens stand, ascending; only for masked tokens."""
    documents_BT: Tensor | None = None
    """The number of each token's document within the window, from 0; only with a document mask."""


@dataclass(frozen=True)
class Drawn:
    """Windows of the corpus as they stand at some positions of the training: what an objective makes a batch of."""

    tokens: NDArray[np.int64]
    """True ids, shape (B, T + 1): the last one is only ever a target."""
    positions_B: NDArray[np.uint64]
    """The windows' positions in the training."""
    documents: Callable[[], NDArray[np.int64]]
    """Reads of each token the number of its document within the window, from 0, shape (B, T + 1)."""

    @property
    def length(self) -> int:
        """T: tokens that the model sees of a window."""
        return self.tokens.shape[1] - 1
