"""Batches: every token in its place, the same for any number of readers, and nothing kept between steps."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.order.batch import Batch
from models.order.examples import Examples
from models.order.loader import Steps
from models.order.windows import Windows
from models.spec import FitSpec, LabelledExamples, MaskedToken, Source, TokenStream
from tests.models.shards import counting_documents, examples_spec, stream_spec

MASKED = MaskedToken(mask_token=63)


def sources_of(spec: FitSpec) -> tuple[Source, ...]:
    assert isinstance(spec.data, TokenStream)
    return spec.data.sources


def mixed_spec(folder: Path, **changes: object) -> FitSpec:
    """Two sources of the same shards, by name, three to one."""
    spec = stream_spec(folder)
    shards = sources_of(spec)[0].shards
    sources = (
        Source(name="most", shards=shards, weight=3, only="even"),
        Source(name="some", shards=shards, weight=1, only="odd"),
    )
    return spec.model_copy(update={"data": TokenStream(sources=sources, digest="of-the-shards"), **changes})


def masked_spec(folder: Path, **changes: object) -> FitSpec:
    """The mixture with hidden tokens and a document mask."""
    spec = mixed_spec(folder, **changes)
    return spec.model_copy(update={"data": spec.data.model_copy(update={"objective": MASKED, "document_mask": True})})


def assert_equal(one: Batch, other: Batch) -> None:
    """All tensors equal, and the same of them there."""
    for mine, yours in zip(one, other, strict=True):
        if mine is None or yours is None:
            assert mine is yours
        else:
            assert torch.equal(mine, yours)


def test_an_epoch_holds_every_window_once(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, batch=3)
    batches = Steps(spec)
    windows = Windows(sources_of(spec)[0].shards, spec.model.context_length)
    steps = -(-batches.order.n // 3)
    seen = np.concatenate([batches[step].tokens_BT.numpy() for step in range(steps)])[: batches.order.n]
    whole = windows.read(range(windows.n))[:, :-1]
    assert np.array_equal(np.sort(seen, axis=0), np.sort(whole, axis=0))
    assert not np.array_equal(seen, whole)


def test_targets_are_the_next_tokens(tmp_path: Path) -> None:
    batch = Steps(stream_spec(tmp_path))[11]
    assert batch.tokens_BT.shape == batch.targets.shape == (8, 16)
    assert torch.equal(batch.tokens_BT[:, 1:], batch.targets[:, :-1])


@pytest.mark.parametrize("make", [examples_spec, masked_spec])
def test_any_number_of_workers_reads_the_same_batches(tmp_path: Path, make: Callable[..., FitSpec]) -> None:
    batches = Steps(make(tmp_path))
    alone = list(batches.loader(5, 12))
    together = list(Steps(make(tmp_path, workers=2)).loader(5, 12))
    elsewhere = pickle.loads(pickle.dumps(batches))
    assert len(alone) == len(together) == len(batches.loader(5, 12)) == 7
    for one, other, step in zip(alone, together, range(5, 12), strict=True):
        assert_equal(one, other)
        assert_equal(one, elsewhere[step])


@pytest.mark.parametrize("make", [stream_spec, mixed_spec, masked_spec])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 8])
def test_ranks_and_pieces_together_are_the_batch(
    tmp_path: Path, make: Callable[..., FitSpec], accumulate: int, world: int
) -> None:
    whole = Steps(make(tmp_path, batch=24))
    cut = Steps(make(tmp_path, batch=24, accumulate=accumulate))
    ranks = [list(cut.loader(7, 9, rank, world)) for rank in range(world)]
    assert {len(pieces) for pieces in ranks} == {2 * accumulate}
    for number, step in enumerate((7, 8)):
        pieces = [ranks[rank][number * accumulate + i] for i in range(accumulate) for rank in range(world)]
        together: list[Any] = [None if parts[0] is None else torch.cat(parts) for parts in zip(*pieces, strict=True)]
        assert_equal(Batch(*together), whole[step])


def test_a_batch_that_cannot_be_cut_into_equal_pieces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch \(8\) must be a multiple of accumulate x devices \(2 x 3 = 6\)"):
        Steps(stream_spec(tmp_path, accumulate=2)).loader(0, 1, 0, 3)


def test_a_mixture_takes_windows_of_its_sources_by_their_weights(tmp_path: Path) -> None:
    spec = mixed_spec(tmp_path, batch=16)
    batches = Steps(spec)
    parts = [Windows(source.shards, 16, source.only) for source in sources_of(spec)]
    assert batches.order.n == sum(part.n for part in parts)
    for step in (0, 3, 10**6):
        sources, items = batches.order.items(step * 16, 16)
        assert np.bincount(sources).tolist() == [12, 4]
        for row, source, item in zip(batches[step].tokens_BT, sources, items, strict=True):
            assert np.array_equal(row, parts[source].read([int(item)])[0, :-1])


def test_trace_finds_the_step_that_saw_a_window(tmp_path: Path) -> None:
    batches = Steps(mixed_spec(tmp_path))
    windows = Windows(sources_of(batches._spec)[1].shards, 16, "odd")
    window = windows.read([5])[0, :-1]
    steps = [position // 8 for position in batches.order.positions(1, 5, 100 * 8)]
    assert len(steps) > 1
    for step in range(100):
        seen = int((batches[step].tokens_BT.numpy() == window).all(axis=1).sum())
        assert seen == steps.count(step)


def test_masked_batches_hide_tokens_of_the_true_windows(tmp_path: Path) -> None:
    masked, plain = Steps(masked_spec(tmp_path)), Steps(mixed_spec(tmp_path))
    changed = 0
    for step in range(40):
        hidden, true = masked[step], plain[step]
        assert hidden.picked_BK is not None and hidden.picked_BK.shape == hidden.targets.shape == (8, 2)
        assert torch.equal(true.tokens_BT.gather(1, hidden.picked_BK), hidden.targets)
        assert torch.equal(hidden.tokens_BT.scatter(1, hidden.picked_BK, hidden.targets), true.tokens_BT)
        assert not (hidden.targets == 0).any()  # token 0 ends each document
        changed += int((hidden.tokens_BT != true.tokens_BT).sum())
    assert 0.8 * 640 < changed < 0.98 * 640


def test_a_window_hides_other_tokens_every_time_it_is_seen(tmp_path: Path) -> None:
    batches = Steps(masked_spec(tmp_path, batch=1))
    drawn = [batches[position].picked_BK for position in batches.order.positions(0, 3, 2000)]
    picked = [tuple(picked_BK[0].tolist()) for picked_BK in drawn if picked_BK is not None]
    assert len(picked) == len(drawn) > 8 and len(set(picked)) > len(picked) // 2


def test_documents_are_numbered_only_for_a_document_mask(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    assert Steps(spec)[3].documents_BT is None and Steps(spec)[3].picked_BK is None
    batch = Steps(spec.model_copy(update={"data": spec.data.model_copy(update={"document_mask": True})}))[3]
    assert batch.documents_BT is not None and batch.documents_BT.dtype == torch.int64
    after_an_end = torch.cumsum(batch.tokens_BT == 0, dim=1)  # token 0 ends each document
    assert torch.equal(batch.documents_BT[:, 1:], after_an_end[:, :-1]) and not batch.documents_BT[:, 0].any()


def test_a_mask_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    data = spec.data.model_copy(update={"objective": MaskedToken(mask_token=64)})
    with pytest.raises(ValueError, match=r"mask_token \(64\) is no token of a vocabulary of 64"):
        FitSpec.model_validate({**dict(spec), "data": data})


def test_examples_are_padded_to_the_longest_and_cut_to_the_context(tmp_path: Path) -> None:
    spec = examples_spec(tmp_path)
    assert isinstance(spec.data, LabelledExamples)
    examples = Examples(spec.data.train, (4, 1, 9), longest=10)
    documents = [np.array(document[:10]) for document in counting_documents(60, seed=1)]
    batch = examples.batch([2, 0])
    assert batch.lengths_B.tolist() == [documents[9].size, documents[4].size]
    assert batch.tokens_BT.shape == (2, max(batch.lengths_B.tolist()))
    for row, document in zip(batch.tokens_BT, (documents[9], documents[4]), strict=True):
        assert row[: document.size].tolist() == document.tolist() and not row[document.size :].any()
    assert batch.targets.tolist() == [int(documents[9][0] > 32), int(documents[4][0] > 32)]


def test_a_row_outside_the_examples_is_refused(tmp_path: Path) -> None:
    spec = examples_spec(tmp_path)
    assert isinstance(spec.data, LabelledExamples)
    with pytest.raises(ValueError, match="outside the 60 rows"):
        Examples(spec.data.train, (60,), 10)
