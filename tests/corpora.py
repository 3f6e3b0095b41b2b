"""Small corpora as artifacts, for tests of single stages."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from tasks.core.artifact import Artifact
from tasks.corpus.documents import DocumentWriter, read_documents

Row = tuple[str, str, str]
"""doc_id, text, source"""


def corpus_of(folder: Path, rows: Iterable[Row], batch_bytes: int = 1000) -> Artifact:
    """An artifact of documents; files are small, so that a corpus of a page has several."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = DocumentWriter(folder, batch_bytes)
    for row in rows:
        writer.add(*row)
    writer.flush()
    return Artifact.of("corpus", folder)


def rows_of(folder: Path) -> list[Row]:
    """The documents that a stage wrote."""
    return [row for batch in read_documents(Artifact.of("corpus", folder)) for row in batch.iter_rows()]


def verdicts_of(folder: Path) -> pl.DataFrame:
    """The verdicts that a stage wrote."""
    return pl.read_parquet(sorted(folder.glob("verdicts*.parquet")))


def fresh(folder: Path) -> Path:
    """An empty folder for a stage to write into."""
    folder.mkdir(parents=True)
    return folder
