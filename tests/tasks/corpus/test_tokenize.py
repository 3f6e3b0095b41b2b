"""Tokenize: shards that map into memory, in order, with every token traceable to its document."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches, do_batch
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.documents import SCHEMA
from tasks.corpus.heldout import is_heldout
from tasks.corpus.tokenize import TokenizeSettings, tokenize
from tasks.corpus.tokenizer import TokenizerSettings, tokenizer
from tasks.tokens.pieces import END_OF_TEXT
from tasks.tokens.vocabulary import load_tokenizer
from tests.corpora import Row, corpus_of, fresh

ROWS: list[Row] = [
    (
        f"s{index % 3}/d{index}",
        f"Text {index}: größer, {END_OF_TEXT} and more of it. " * (index % 5 + 1),
        f"s{index % 3}",
    )
    for index in range(120)
]
COLUMNS = pa.schema(
    [("doc_id", pa.string()), ("source", pa.string()), ("bytes", pa.int32()), ("tokens", pa.list_(pa.uint16()))]
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Documents in many small files, and a tokenizer that was not shown a quarter of them."""
    folder = tmp_path_factory.mktemp("corpus")
    documents = corpus_of(folder / "in", ROWS)
    tokenizer(documents, TokenizerSettings(vocabulary=300, heldout=0.25), fresh(folder / "tokenizer"), StageLog())
    return documents, Artifact.of("tokenizer", folder / "tokenizer")


def run(corpus: tuple[Artifact, Artifact], out: Path) -> Metrics:
    batches = Batches(out.with_name(f"{out.name}-batches"))
    return tokenize(*corpus, TokenizeSettings(), fresh(out), StageLog(), batches)


def read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def read_split(folder: Path, split: str) -> pa.Table:
    return pa.concat_tables(read(shard) for shard in sorted(folder.glob(f"{split}-*.arrow")))


def test_shards_hold_every_document_once_in_order_on_its_side_of_the_split(
    corpus: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    metrics = run(corpus, tmp_path / "out")
    held = is_heldout(pl.Series([row[0] for row in ROWS]), 0.25).to_list()
    encoder = load_tokenizer(corpus[1])
    for split, side in (("train", False), ("heldout", True)):
        expected = [row for row, heldout in zip(ROWS, held, strict=True) if heldout == side]
        table = read_split(tmp_path / "out", split)
        assert table.schema == COLUMNS
        assert table["doc_id"].to_pylist() == [row[0] for row in expected]
        assert table["source"].to_pylist() == [row[2] for row in expected]
        assert table["bytes"].to_pylist() == [len(row[1].encode()) for row in expected]
        tokens = table["tokens"].to_pylist()
        assert all(ids[-1] == 0 and 0 not in ids[:-1] for ids in tokens)
        assert [ids[:-1] for ids in tokens] == [encoder.encode(row[1]).ids for row in expected]
        assert [encoder.decode(ids[:-1]) for ids in tokens] == [row[1] for row in expected]
        assert metrics[f"{split}_documents"] == len(expected)
        assert metrics[f"{split}_tokens"] == sum(map(len, tokens))
        assert metrics[f"{split}_bytes"] == sum(len(row[1].encode()) for row in expected)


def test_a_file_of_documents_becomes_a_shard_of_each_split_with_its_number(
    corpus: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    metrics = run(corpus, tmp_path / "out")
    files = sorted(corpus[0].path.glob("documents-*.parquet"))
    held = dict(zip((row[0] for row in ROWS), is_heldout(pl.Series([row[0] for row in ROWS]), 0.25), strict=True))
    assert len(files) == metrics["train_shards"] == metrics["heldout_shards"] > 2
    for file in files:
        ids = pl.read_parquet(file)["doc_id"].to_list()
        number = file.stem.removeprefix("documents-")
        for split, side in (("train", False), ("heldout", True)):
            shard = read(tmp_path / "out" / f"{split}-{number}.arrow")
            assert shard["doc_id"].to_pylist() == [doc_id for doc_id in ids if held[doc_id] == side]


@pytest.mark.parametrize("rows", [[], [("a", "words", "s")], [("a", "", "s")]])
def test_a_split_without_documents_has_an_empty_shard(tmp_path: Path, rows: list[Row]) -> None:
    words = corpus_of(tmp_path / "words", [("a", "words", "s")])
    tokenizer(words, TokenizerSettings(vocabulary=300, heldout=0), fresh(tmp_path / "tokenizer"), StageLog())
    documents = corpus_of(tmp_path / "in", rows)
    metrics = run((documents, Artifact.of("tokenizer", tmp_path / "tokenizer")), tmp_path / "out")
    assert (metrics["train_documents"], metrics["heldout_documents"]) == (len(rows), 0)
    assert read(tmp_path / "out" / "train-00000.arrow").num_rows == len(rows)
    assert read(tmp_path / "out" / "heldout-00000.arrow").num_rows == 0


def test_a_file_in_which_no_document_is_left_keeps_its_number(
    corpus: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    folder = fresh(tmp_path / "in")
    pq.write_table(SCHEMA.empty_table(), folder / "documents-00000.parquet")
    rows = pa.table({"doc_id": ["a"], "text": ["words"], "source": ["s"]}).cast(SCHEMA)
    pq.write_table(rows, folder / "documents-00001.parquet")
    run((Artifact.of("corpus", folder), corpus[1]), tmp_path / "out")
    assert [read_split(tmp_path / "out", split).num_rows for split in ("train", "heldout")] == [1, 0]
    assert read(tmp_path / "out" / "train-00001.arrow")["doc_id"].to_pylist() == ["a"]


def test_threads_and_other_processes_write_the_same_bytes(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    run(corpus, tmp_path / "threads")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        batches = Batches(tmp_path / "batches", lambda *work: pool.submit(do_batch, *work))
        tokenize(*corpus, TokenizeSettings(), fresh(tmp_path / "processes"), StageLog(), batches)
    digests = {Artifact.of("x", tmp_path / name).digest for name in ("threads", "processes")}
    assert len(digests) == 1


def test_long_and_short_documents_of_one_file_are_read_in_parts(
    corpus: tuple[Artifact, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"d{index}", "word " * (20_000 if index == 7 else index), "s") for index in range(40)]
    documents = corpus_of(tmp_path / "in", rows, batch_bytes=1 << 30)
    run((documents, corpus[1]), tmp_path / "whole")
    monkeypatch.setattr("tasks.corpus.tokenize.PART_BYTES", 10_000)
    run((documents, corpus[1]), tmp_path / "parts")
    for split in ("train", "heldout"):
        whole, parts = (read_split(tmp_path / name, split) for name in ("whole", "parts"))
        assert parts["tokens"].num_chunks > 1 == whole["tokens"].num_chunks
        assert parts.combine_chunks() == whole.combine_chunks()


def test_datasets_reads_the_shards(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    import datasets

    run(corpus, tmp_path / "out")
    shards = [str(shard) for shard in sorted((tmp_path / "out").glob("heldout-*.arrow"))]
    loaded = datasets.load_dataset("arrow", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    expected = read_split(tmp_path / "out", "heldout")
    assert loaded["tokens"][:] == expected["tokens"].to_pylist()
    assert loaded["doc_id"][:] == expected["doc_id"].to_pylist()
