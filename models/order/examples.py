"""Labelled token sequences of mapped shards, padded to batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.order.batch import Batch
from models.order.shards import read_column


class Examples:
    """Labelled token sequences of mapped shards, cut to the model's context."""

    def __init__(self, path: Path, rows: Sequence[int] | None, longest: int) -> None:
        self.longest = longest
        tokens = read_column(path, "tokens")
        self._tokens = pa.chunked_array(tokens)
        self._labels = np.concatenate([part.to_numpy() for part in read_column(path, "label")])
        self.rows = np.arange(len(self._labels)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.n = len(self.rows)
        if self.n == 0:
            raise ValueError(f"{path} gives no examples to learn from or to judge by.")
        if self.rows.min() < 0 or self.rows.max() >= len(self._labels):
            raise ValueError(f"A row of the label budget is outside the {len(self._labels)} rows of {path}.")

    @property
    def labels(self) -> NDArray[np.int64]:
        """The classes of the chosen rows, shape (n,)."""
        return self._labels[self.rows].astype(np.int64)

    def read(self, index: int) -> NDArray[np.int64]:
        """Tokens of the index-th chosen row; at least one."""
        tokens = self._tokens[int(self.rows[index])].values.to_numpy()[: self.longest]
        return tokens.astype(np.int64) if tokens.size else np.zeros(1, dtype=np.int64)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The chosen rows, padded to the longest of them."""
        sequences = [self.read(int(index)) for index in indices]
        lengths = [sequence.size for sequence in sequences]
        tokens_BT = torch.zeros((len(sequences), max(lengths)), dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            tokens_BT[row, : sequence.size] = torch.from_numpy(sequence)
        targets_B = torch.from_numpy(self.labels[np.asarray(indices)])
        return Batch(tokens_BT, targets_B, torch.tensor(lengths))
