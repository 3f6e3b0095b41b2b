"""Tokenize: shards that map into memory, in order, with every token traceable to its document."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from tasks.core.stage import Metrics, StageLog
from tasks.core.store import Artifact
from tasks.split import is_heldout
from tasks.tokenize import TokenizeSettings, tokenize
from tasks.tokenizer import END_OF_TEXT, TokenizerSettings, load_tokenizer, tokenizer
from tests.corpora import Row, corpus_of, fresh

ROWS: list[Row] = [
    (
        f"s{index % 3}/d{index}",
        f"Text {index}: größer, {END_OF_TEXT} and more of it. " * (index % 5 + 1),
        f"s{index % 3}",
    )
    for index in range(120)
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Documents, and a tokenizer that was not shown a quarter of them."""
    folder = tmp_path_factory.mktemp("corpus")
    documents = corpus_of(folder / "in", ROWS)
    tokenizer(documents, TokenizerSettings(vocabulary=300, heldout=0.25), fresh(folder / "tokenizer"), StageLog())
    return documents, Artifact.of("tokenizer", folder / "tokenizer")


def run(corpus: tuple[Artifact, Artifact], out: Path, shard_tokens: int = 1 << 26) -> Metrics:
    return tokenize(*corpus, TokenizeSettings(shard_tokens=shard_tokens), fresh(out), StageLog())


def read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def test_shards_hold_every_document_once_in_order_on_its_side_of_the_split(
    corpus: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    metrics = run(corpus, tmp_path / "out")
    held = is_heldout(pl.Series([row[0] for row in ROWS]), 0.25).to_list()
    encoder = load_tokenizer(corpus[1])
    for split, side in (("train", False), ("heldout", True)):
        expected = [row for row, heldout in zip(ROWS, held, strict=True) if heldout == side]
        table = read(tmp_path / "out" / f"{split}-00000.arrow")
        assert table.schema == pa.schema(
            [("doc_id", pa.string()), ("source", pa.string()), ("bytes", pa.int32()), ("tokens", pa.list_(pa.uint16()))]
        )
        assert table["doc_id"].to_pylist() == [row[0] for row in expected]
        assert table["source"].to_pylist() == [row[2] for row in expected]
        assert table["bytes"].to_pylist() == [len(row[1].encode()) for row in expected]
        tokens = table["tokens"].to_pylist()
        assert all(ids[-1] == 0 and 0 not in ids[:-1] for ids in tokens)
        assert [encoder.decode(ids[:-1]) for ids in tokens] == [row[1] for row in expected]
        assert metrics[f"{split}_documents"] == len(expected)
        assert metrics[f"{split}_tokens"] == sum(map(len, tokens))
        assert metrics[f"{split}_bytes"] == sum(len(row[1].encode()) for row in expected)


def test_shards_are_cut_by_tokens_and_together_say_the_same(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(corpus, whole)
    metrics = run(corpus, parts, shard_tokens=500)
    shards = sorted(parts.glob("train-*.arrow"))
    assert len(shards) == metrics["train_shards"] > 2
    tables = [read(shard) for shard in shards]
    assert all(sum(map(len, table["tokens"].to_pylist())) >= 500 for table in tables[:-1])
    assert pa.concat_tables(tables).equals(read(whole / "train-00000.arrow"))


def test_a_split_without_documents_has_an_empty_shard(tmp_path: Path) -> None:
    documents = corpus_of(tmp_path / "in", [("a", "words", "s")])
    tokenizer(documents, TokenizerSettings(vocabulary=300, heldout=0), fresh(tmp_path / "tokenizer"), StageLog())
    metrics = run((documents, Artifact.of("tokenizer", tmp_path / "tokenizer")), tmp_path / "out")
    assert metrics["heldout_documents"] == 0
    assert read(tmp_path / "out" / "heldout-00000.arrow").num_rows == 0


def test_the_same_documents_give_the_same_bytes(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(corpus, tmp_path / name, shard_tokens=700)
    assert Artifact.of("x", tmp_path / "one").digest == Artifact.of("x", tmp_path / "two").digest


def test_datasets_reads_the_shards(corpus: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    import datasets

    run(corpus, tmp_path / "out")
    shard = tmp_path / "out" / "heldout-00000.arrow"
    loaded = datasets.load_dataset("arrow", data_files=str(shard), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["tokens"][:] == read(shard)["tokens"].to_pylist()
