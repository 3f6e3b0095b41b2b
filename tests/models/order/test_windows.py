"""Windows: every token in its place, of the source that is asked for, with the documents that meet in it."""

from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.order import stretches as runs
from models.order.windows import Windows
from tests.models.shards import counting_documents, write_shard

SIZES = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), min_size=1, max_size=4)


def numbered(sizes: list[list[int]]) -> list[list[list[int]]]:
    """Documents of the sizes, shard by shard, whose tokens count 0, 1, 2 ... over all."""
    tokens = iter(range(10**6))
    return [[[next(tokens) for _ in range(size)] for size in shard] for shard in sizes]


@given(sizes=SIZES, length=st.integers(1, 12), rows_per_batch=st.integers(1, 4), only=st.sampled_from([None, "odd"]))
def test_windows_tile_the_stream_whatever_the_shards(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    length: int,
    rows_per_batch: int,
    only: str | None,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    shards = numbered(sizes)
    paths = [write_shard(folder / f"{i}.arrow", shard, rows_per_batch) for i, shard in enumerate(shards)]
    if only:  # tests.models.shards: every second document of a shard
        shards = [shard[1::2] for shard in shards]
    documents = [document for document in chain.from_iterable(shards) if document]
    stream = np.array(list(chain.from_iterable(documents)), dtype=np.int64)
    owner = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    if stream.size <= length:
        with pytest.raises(ValueError, match=r"add documents or shorten|No document is of the source 'odd'"):
            Windows(paths, length, only)
        return
    windows = Windows(paths, length, only)
    assert (windows.tokens, windows.n) == (stream.size, (stream.size - 1) // length)
    chosen = np.random.default_rng(0).permutation(windows.n)
    tokens, numbers = windows.read(chosen), windows.documents(chosen)
    assert tokens.dtype == numbers.dtype == np.int64
    for window, found, of in zip(chosen, tokens, numbers, strict=True):
        inside = slice(window * length, (window + 1) * length + 1)
        assert np.array_equal(found, stream[inside])
        assert np.array_equal(of, owner[inside] - owner[inside][0])


def test_a_source_that_no_document_has_is_answered_with_those_there_are(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.arrow", counting_documents(10))
    with pytest.raises(ValueError, match=r"No document is of the source 'evn'; the sources are even, odd\.$"):
        Windows([shard], 8, only="evn")


def test_many_sources_are_not_all_listed(tmp_path: Path) -> None:
    documents = pa.array([[1, 2]] * 30, pa.list_(pa.uint16()))
    table = pa.table({"source": [f"s{i:02d}" for i in range(30)], "tokens": documents})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"s00, s01, .*, s19 and 10 more\.$"):
        Windows([tmp_path / "a.arrow"], 1, only="x")


def test_neighbouring_documents_of_a_source_are_one_stretch(tmp_path: Path) -> None:
    table = pa.table(
        {
            "source": pa.array(["a"] * 500 + ["b"] * 300 + [None] * 100 + ["a"] * 100),
            "tokens": pa.array([[i, 0] for i in range(1000)], pa.list_(pa.uint16())),
        }
    )
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=250)
    windows = Windows([tmp_path / "a.arrow"], 1, only="a")
    assert windows.runs == 3 and windows.tokens == 1200
    assert windows.read([999, 1000]).tolist() == [[0, 900], [900, 0]]


@pytest.mark.parametrize(
    ("type_", "options", "sentence"),
    [
        (
            pa.list_(pa.float32()),
            None,
            r"a\.arrow holds no lists of token ids but list<item: float>: tokenize",
        ),
        (pa.uint16(), None, r"a\.arrow holds no lists of token ids but uint16"),
        (
            pa.list_(pa.uint16()),
            pa.ipc.IpcWriteOptions(compression="zstd"),
            r"a\.arrow is compressed and cannot be mapped: write it without compression",
        ),
    ],
)
def test_a_shard_that_cannot_be_mapped_as_tokens_is_named(
    tmp_path: Path, type_: pa.DataType, options: pa.ipc.IpcWriteOptions | None, sentence: str
) -> None:
    values = [3] * 5000 if type_ == pa.uint16() else [[3] * 5000]
    table = pa.table({"tokens": pa.array(values, type_)})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=sentence):
        Windows([tmp_path / "a.arrow"], 8)


def test_shards_of_unlike_ids_are_refused(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a.arrow", counting_documents(3))
    table = pa.table({"tokens": pa.array([[70_000] * 50], pa.list_(pa.uint32()))})
    with pa.ipc.new_file(str(tmp_path / "b.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"b\.arrow holds ids of uint32, the shards before it uint16"):
        Windows([first, tmp_path / "b.arrow"], 8)


def test_a_file_that_is_no_shard_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "train-00000.arrow"
    broken.write_bytes(b"not an arrow file at all")
    with pytest.raises(ValueError, match=r"train-00000\.arrow is not a readable Arrow file"):
        Windows([broken], 8)


def test_a_shard_without_sources_is_named(tmp_path: Path) -> None:
    table = pa.table({"tokens": pa.array([[1] * 50], pa.list_(pa.uint16()))})
    with pa.ipc.new_file(str(tmp_path / "b.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"b\.arrow has no column 'source'"):
        Windows([tmp_path / "b.arrow"], 8, only="books")


def test_what_was_found_in_many_shards_is_kept_until_one_of_them_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [write_shard(tmp_path / f"{i}.arrow", counting_documents(4, seed=i)) for i in range(5)]
    index = tmp_path / "work" / "index"
    Windows(shards, 8, index=index)
    assert not index.exists()
    monkeypatch.setattr(runs, "MANY", 5)
    found = Windows(shards, 8, index=index)
    odd = Windows(shards, 8, "odd", index)
    kept = sorted(index.iterdir())
    assert len(kept) == 2
    with monkeypatch.context() as patched:
        patched.delattr(runs, "find_runs")
        again, odd_again = Windows(shards, 8, index=index), Windows(shards, 8, "odd", index)
    for before, after in ((found, again), (odd, odd_again)):
        assert before.n == after.n
        assert np.array_equal(before.read(range(before.n)), after.read(range(before.n)))
        assert np.array_equal(before.documents(range(before.n)), after.documents(range(before.n)))
    write_shard(shards[2], counting_documents(40, seed=9))
    longer = Windows(shards, 8, index=index)
    assert longer.n > found.n and len(list(index.iterdir())) == 3
    assert np.array_equal(longer.read(range(longer.n)), Windows(shards, 8).read(range(longer.n)))


def test_a_full_disk_keeps_nothing_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [write_shard(tmp_path / f"{i}.arrow", counting_documents(4, seed=i)) for i in range(2)]
    monkeypatch.setattr(runs, "MANY", 2)
    (tmp_path / "file").touch()
    assert Windows(shards, 8, index=tmp_path / "file" / "index").n > 0  # a folder that cannot be
