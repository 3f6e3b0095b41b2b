"""Drops every document that shares an n-gram of words with an evaluation set, and says which and how many.

The rule follows GPT-3's (Brown et al. 2020, arXiv 2005.14165, appendix C): 13 words in sequence, their greatest n,
that also stand in a text of the set. A shorter evaluation text of at least 8 words, their least n, is one n-gram as a
whole; one of fewer words is compared with nothing, since it would drop every document that quotes a common phrase.
They cut 200 characters around a hit; here the document goes whole: a text with a hole teaches the hole. Costs one
pass over the text (90 MB/s on one core against 1.3 million n-grams), and 30 to 50 bytes of memory for each n-gram of
the sets.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from models.settings import Name, Settings
from tasks.core.artifact import Artifact
from tasks.core.batches import Batches, Facts
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.documents import COMPRESSION, VERDICTS, document_files, text_buffers, write_documents, write_rows
from tasks.intake.evaluation_sets import EvaluationInventory, EvaluationSet, read_texts, take_stock

IN_EVALUATION_SET, CLEAN = "in evaluation set", "clean"
SHORTEST = 8
"""Words of the shortest evaluation text that is compared (Brown et al. 2020, appendix C: the least n)."""
QUOTED = 300
"""Characters quoted of an n-gram: 13 words have some 80, but a word may be a long address."""
OWNERS_FILE = "owners.parquet"
HITS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("set", pa.string()),
        ("evaluation", pa.string()),
        ("ngrams", pa.int64()),
        ("first", pa.string()),
    ]
)


class DecontaminateSettings(Settings):
    """What must not be learnt; the defaults are GPT-3's."""

    sets: dict[Name, EvaluationSet] = Field(default={})
    """The evaluation sets by name; without one, nothing is compared."""
    ngram: int = Field(default=13, ge=1, le=1000)
    """Words in sequence that count as the same text (GPT-3: 13)."""
    min_shared: int = Field(default=1, ge=1, le=1_000_000)
    """A document is dropped if it shares at least this many different n-grams with one set (GPT-3: any)."""


def take_evaluation_inventory(settings: DecontaminateSettings) -> EvaluationInventory:
    """What the sets hold as the run begins; see `evaluation_sets.take_stock` for the errors."""
    return take_stock(settings.sets)


@stage(version=1)
def decontaminate(
    documents: Artifact,
    evaluation: EvaluationInventory,
    settings: DecontaminateSettings,
    out: Path,
    log: StageLog,
    batches: Batches,
) -> Metrics:
    """Write documents-*.parquet with what is kept, verdicts-*.parquet, and hits.parquet.

    hits.parquet has a row for each dropped document and set that it is in: doc_id, set, evaluation (file#row of the
    evaluation text that it shares most with), ngrams (different ones shared with the set), first (the earliest).

    Raises:
        UserError: a set cannot be read, or has no text that is long enough to compare.
    """
    (table,) = batches.map("evaluation", partial(index_sets, settings=settings), [evaluation])
    search = partial(clean_file, table=str(table.folder), settings=settings)
    done = batches.map("documents", search, [str(path) for path in document_files(documents)])
    counts: Metrics = dict.fromkeys(
        ("documents", "kept", "kept_bytes", "dropped_in_evaluation_set", *(f"hits_{name}" for name in settings.sets)), 0
    )
    with pq.ParquetWriter(out / "hits.parquet", HITS, compression=COMPRESSION) as writer:
        for path, batch in zip(document_files(documents), done, strict=True):
            for name in (path.name, _verdicts_name(path)):
                batch.hand_over(name, out / name)
            if batch.facts["dropped_in_evaluation_set"]:
                writer.write_table(pq.read_table(batch.folder / "hits.parquet"))
            for name in counts:
                counts[name] += batch.facts[name]
    log.info(f"{counts['dropped_in_evaluation_set']:,} of {counts['documents']:,} documents are in an evaluation set")
    return counts | table.facts


def index_sets(evaluation: EvaluationInventory, folder: Path, settings: DecontaminateSettings) -> Facts:
    """Batch: write the table of all n-grams of the sets, and which text of each set has each of them first."""
    from tasks.similarity.ngrams import hash_ngrams, make_table

    shortest = min(SHORTEST, settings.ngram)
    parts, texts, compared = [], 0, 0
    for name in sorted(evaluation.sets):
        before = compared
        for file in evaluation.sets[name]:
            rows = read_texts(settings.sets[name], file)
            of_text, hashes, widths = hash_ngrams(*_buffers(rows["text"]), settings.ngram, shortest)
            part = rows.select(set=pl.lit(name), evaluation=pl.concat_str(pl.lit(f"{file.name}#"), "row"))[of_text]
            parts.append(part.with_columns(hash=pl.Series(hashes), width=pl.Series(widths)))
            texts += rows.height
            compared += len(np.unique(of_text))
        if compared == before:
            raise UserError(
                f"No text of the evaluation set {name!r} has {shortest} words: check its `path` and `columns`."
            )
    grams = pl.concat(parts).unique(["hash", "set"], keep="first", maintain_order=True)
    hashes = grams["hash"].unique().sort()
    make_table(hashes.to_numpy(), grams["width"].unique().to_numpy()).save(folder)
    owners = grams.select("set", "evaluation", number=hashes.search_sorted(grams["hash"]).cast(pl.Int64))
    owners.write_parquet(folder / OWNERS_FILE)
    return {
        "evaluation_texts": texts,
        "evaluation_texts_too_short": texts - compared,
        "evaluation_ngrams": len(hashes),
    }


def clean_file(path: str, folder: Path, table: str, settings: DecontaminateSettings) -> Facts:
    """Batch: judge the documents of one file."""
    batch = pl.read_parquet(path)
    hits = find_hits(batch, Path(table), settings.min_shared)
    verdicts = _verdicts(batch, hits, settings)
    kept = batch.filter(verdicts["verdict"] == "kept")
    write_documents(kept, folder / Path(path).name)
    write_rows(verdicts, VERDICTS, folder / _verdicts_name(Path(path)))
    if hits.height:
        write_rows(hits.select(HITS.names), HITS, folder / "hits.parquet")
    by_set = dict(hits["set"].value_counts().iter_rows())
    return {
        "documents": batch.height,
        "kept": kept.height,
        "kept_bytes": int(kept["text"].str.len_bytes().sum()),
        "dropped_in_evaluation_set": batch.height - kept.height,
        **{f"hits_{name}": by_set.get(name, 0) for name in settings.sets},
    }


def find_hits(batch: pl.DataFrame, folder: Path, min_shared: int) -> pl.DataFrame:
    """The columns of hits.parquet for each document of the batch and set that share enough, in their order."""
    from tasks.similarity.ngrams import Table, find_ngrams

    data, offsets = _buffers(batch["text"])
    table = Table.load(folder)
    places = find_ngrams(data, offsets, table.slots, table.numbers, table.marks, table.widths)
    found = pl.DataFrame(places, schema=["document", "number", "begin", "end"]).unique(
        ["document", "number"], keep="first", maintain_order=True
    )
    owners = pl.scan_parquet(folder / OWNERS_FILE).filter(pl.col("number").is_in(found["number"].unique().implode()))
    by_text = (
        found.lazy()
        .join(owners, on="number", maintain_order="left_right")
        .group_by("document", "set", "evaluation", maintain_order=True)
        .agg(pl.len().alias("shared"), pl.first("begin", "end"))
    )
    hits = (
        by_text.group_by("document", "set", maintain_order=True)
        .agg(
            pl.col("evaluation").sort_by("shared", descending=True, maintain_order=True).first(),
            pl.col("shared").sum().cast(pl.Int64).alias("ngrams"),
            pl.first("begin", "end"),  # the earliest: texts stand in the order of their first n-grams
        )
        .filter(pl.col("ngrams") >= min_shared)
        .sort("document", "set")
        .collect()
    )
    quotes = [_quote(bytes(data[begin:end])) for begin, end in hits.select("begin", "end").iter_rows()]
    return hits.select(
        batch["doc_id"][hits["document"]], "set", "evaluation", "ngrams", pl.Series("first", quotes, dtype=pl.String)
    )


def _verdicts(batch: pl.DataFrame, hits: pl.DataFrame, settings: DecontaminateSettings) -> pl.DataFrame:
    """One verdict a document; a dropped one's evidence is the set that it shares most with."""
    evidence = pl.format(
        "shares {} different n-grams of at most {} words with {}, most with {}, first “{}”",
        "ngrams",
        pl.lit(settings.ngram),
        "set",
        "evaluation",
        "first",
    )
    worst = (
        hits.sort("ngrams", descending=True, maintain_order=True)
        .unique("doc_id", keep="first", maintain_order=True)
        .select("doc_id", evidence.alias("evidence"))
    )
    few = "no n-gram" if settings.min_shared == 1 else f"fewer than {settings.min_shared} n-grams"
    dropped = pl.col("evidence").is_not_null()
    return (
        batch.select("doc_id")
        .join(worst, on="doc_id", how="left", maintain_order="left")
        .select(
            "doc_id",
            pl.lit("decontaminate").alias("stage"),
            pl.when(dropped).then(pl.lit("dropped")).otherwise(pl.lit("kept")).alias("verdict"),
            pl.when(dropped).then(pl.lit(IN_EVALUATION_SET)).otherwise(pl.lit(CLEAN)).alias("reason"),
            pl.coalesce("evidence", pl.lit(f"shares {few} with any set")),
        )
    )


def _buffers(texts: pl.Series) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The UTF-8 bytes of all texts, and where each begins (shape [texts + 1])."""
    return text_buffers(pa.array(texts.to_arrow(compat_level=pl.CompatLevel.oldest()), pa.large_string()))


def _quote(passage: bytes) -> str:
    """The passage without the separators that it may begin with, cut where it is long."""
    text = " ".join(re.sub(r"^\W+", "", passage.decode()).split())
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"


def _verdicts_name(documents: Path) -> str:
    return documents.name.replace("documents-", "verdicts-")
