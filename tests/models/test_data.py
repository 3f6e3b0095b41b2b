"""Batches: every token in its place, the same for any number of readers, and nothing kept between steps."""

import pickle
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.data import Examples, Steps, Windows
from models.spec import FitSpec
from tests.models.shards import counting_documents, examples_spec, stream_spec, write_shard


@given(
    sizes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), min_size=1, max_size=4),
    length=st.integers(1, 12),
    rows_per_batch=st.integers(1, 4),
)
def test_windows_tile_the_stream_whatever_the_shards(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], length: int, rows_per_batch: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tokens = iter(range(10**6))
    documents = [[[next(tokens) for _ in range(size)] for size in shard] for shard in sizes]
    stream = np.array(list(chain.from_iterable(chain.from_iterable(documents))))
    shards = [write_shard(folder / f"{i}.arrow", shard, rows_per_batch) for i, shard in enumerate(documents)]
    if stream.size <= length:
        with pytest.raises(ValueError, match="add documents or shorten"):
            Windows(shards, length)
        return
    windows = Windows(shards, length)
    assert (windows.tokens, windows.n) == (stream.size, (stream.size - 1) // length)
    for window in range(windows.n):
        assert np.array_equal(windows.read(window), stream[window * length : (window + 1) * length + 1])


def test_an_epoch_holds_every_window_once(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, batch=3)
    batches = Steps(spec)
    windows = Windows(spec.data.sources[0].shards, spec.model.context_length)  # type: ignore[union-attr]
    steps = -(-batches.order.n // 3)
    seen = np.concatenate([batches[step].tokens_BT.numpy() for step in range(steps)])[: batches.order.n]
    whole = np.stack([windows.read(window)[:-1] for window in range(windows.n)])
    assert np.array_equal(np.sort(seen, axis=0), np.sort(whole, axis=0))
    assert not np.array_equal(seen, whole)


def test_targets_are_the_next_tokens(tmp_path: Path) -> None:
    batch = Steps(stream_spec(tmp_path))[11]
    assert batch.tokens_BT.shape == batch.targets.shape == (8, 16)
    assert torch.equal(batch.tokens_BT[:, 1:], batch.targets[:, :-1])


@pytest.mark.parametrize("make", [stream_spec, examples_spec])
def test_any_number_of_workers_reads_the_same_batches(tmp_path: Path, make: Callable[..., FitSpec]) -> None:
    batches = Steps(make(tmp_path))
    alone = list(batches.loader(5, 12))
    together = list(Steps(make(tmp_path, workers=2)).loader(5, 12))
    elsewhere = pickle.loads(pickle.dumps(batches))
    assert len(alone) == len(together) == 7
    for one, other, step in zip(alone, together, range(5, 12), strict=True):
        for mine, yours, direct in zip(one, other, elsewhere[step], strict=True):
            assert torch.equal(mine, yours) and torch.equal(mine, direct)


def test_examples_are_padded_to_the_longest_and_cut_to_the_context(tmp_path: Path) -> None:
    spec = examples_spec(tmp_path)
    examples = Examples(spec.data.train, (4, 1, 9), longest=10)  # type: ignore[union-attr]
    documents = [np.array(document[:10]) for document in counting_documents(60, seed=1)]
    batch = examples.batch([2, 0])
    assert batch.lengths_B.tolist() == [documents[9].size, documents[4].size]
    assert batch.tokens_BT.shape == (2, max(batch.lengths_B.tolist()))
    for row, document in zip(batch.tokens_BT, (documents[9], documents[4]), strict=True):
        assert row[: document.size].tolist() == document.tolist() and not row[document.size :].any()
    assert batch.targets.tolist() == [int(documents[9][0] > 32), int(documents[4][0] > 32)]


def test_a_file_that_is_no_shard_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "train-00000.arrow"
    broken.write_bytes(b"not an arrow file at all")
    with pytest.raises(ValueError, match=r"train-00000\.arrow is not a readable Arrow file"):
        Windows([broken], 8)


def test_a_row_outside_the_examples_is_refused(tmp_path: Path) -> None:
    spec = examples_spec(tmp_path)
    with pytest.raises(ValueError, match="outside the 60 rows"):
        Examples(spec.data.train, (60,), 10)  # type: ignore[union-attr]
