"""Drops every document that repeats an earlier one, exactly or nearly, and names the one that stays.

One rule: a document is dropped if an *earlier* one (whether itself kept or not) has the same words, or shares an LSH
band with it and agrees with it in enough MinHash values. The verdict depends on earlier documents only, so whatever
follows, tonight or in a year, changes none. Memory holds 530 bytes a document (its signature, contents and id), never
texts: those are read a file at a time, once to sign them and once to copy what is kept.
"""

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tasks.core.stage import Metrics, StageLog, stage
from tasks.core.store import Artifact
from tasks.documents import VERDICTS, as_table, read_documents, write_documents

Item = TypeVar("Item")
Result = TypeVar("Result")

EXACT = "exact duplicate"
NEAR = "near-duplicate"
SLICE = 1024  # texts that one thread signs at a time
MATCH_VERDICTS = pa.schema([*VERDICTS, ("survivor", pa.string()), ("similarity", pa.float64())])


class DeduplicateSettings(BaseModel):
    """What counts as the same text; the defaults are FineWeb's (Penedo et al. 2024, arXiv 2406.17557, section 3.4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    shingle_words: int = Field(default=5, ge=1)
    """Words in a shingle, the unit that two texts are compared by (FineWeb: 5)."""
    bands: int = Field(default=14, ge=1)
    """LSH bands; two texts are compared if all values of one band are equal (FineWeb: 14)."""
    rows: int = Field(default=8, ge=1)
    """MinHash values in a band (FineWeb: 8). At 14 bands of 8, texts of Jaccard similarity 0.75 are compared with
    probability 0.77, of 0.8 with 0.92, of 0.9 with 0.9996."""
    threshold: float = Field(default=0.75, gt=0, le=1)
    """Least estimated Jaccard similarity of near-duplicates (FineWeb aims at 0.75; the standard error is 0.04)."""


@stage(version=1, libraries=("numba", "polars", "pyarrow"))
def deduplicate(documents: Artifact, settings: DeduplicateSettings, out: Path, log: StageLog) -> Metrics:
    """Write documents-*.parquet with what is kept, and verdicts.parquet with a survivor and similarity for each drop.

    `survivor` is always a kept document: where the match was itself dropped, its own survivor. `similarity` is
    that to the match: 1 for an exact duplicate, else the estimated Jaccard similarity.
    """
    signatures, contents, ids = _sign_all(documents, settings)
    log.info(f"signed {len(ids):,} documents")
    matches, exact, similarity = find_matches(signatures, contents, settings)
    kept = matches == np.arange(len(matches))
    verdicts = _verdicts(ids, matches, exact, similarity)
    pq.write_table(verdicts, out / "verdicts.parquet", compression="zstd")
    start, kept_bytes = 0, 0
    for number, batch in enumerate(read_documents(documents)):
        staying = batch.filter(pl.Series(kept[start : start + batch.height]))
        write_documents(staying, out, number)
        start += batch.height
        kept_bytes += int(staying["text"].str.len_bytes().sum())
    log.info(f"{int(kept.sum()):,} of {len(kept):,} documents repeat none before them")
    return {
        "documents": len(kept),
        "kept": int(kept.sum()),
        "kept_bytes": kept_bytes,
        "dropped_exact_duplicate": int(exact.sum()),
        "dropped_near_duplicate": int((~kept & ~exact).sum()),
    }


def sign_texts(
    texts: pa.LargeStringArray, settings: DeduplicateSettings, threads: int | None = None
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Signatures (uint32, shape [texts, bands x rows]) and contents (uint64, shape [texts, 2]); see `minhash.sign`."""
    from tasks.minhash import permutations, sign

    if not len(texts):
        return np.empty((0, settings.bands * settings.rows), dtype=np.uint32), np.empty((0, 2), dtype=np.uint64)
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)
    for array in (offsets, data):
        array.setflags(write=False)  # one type for numba whoever made the column, so that one version is compiled
    multipliers, summands = permutations(settings.bands * settings.rows)
    signatures = np.empty((len(texts), len(multipliers)), dtype=np.uint32)
    contents = np.empty((len(texts), 2), dtype=np.uint64)

    def sign_slice(first: int) -> None:
        last = min(first + SLICE, len(texts))
        sign(data, offsets, first, last, settings.shingle_words, multipliers, summands, signatures, contents)

    _in_threads(sign_slice, range(0, len(texts), SLICE), threads)
    return signatures, contents


def find_matches(
    signatures: NDArray[np.uint32],
    contents: NDArray[np.uint64],
    settings: DeduplicateSettings,
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
    """For each text the earliest one that it repeats, or itself; whether exactly; and the similarity to it.

    Cost: a sort of the keys of each band, and a comparison of signatures (10 ns) for each pair that shares a band
    up to the first match. Texts without words match nothing.
    """
    from tasks.minhash import band_keys, match_earlier

    count = len(contents)
    wordless = ~contents.any(axis=1)
    first = _first_of_each(contents)
    matches = np.where(wordless, np.arange(count), first)
    exact = matches != np.arange(count)
    distinct = np.flatnonzero(~exact & ~wordless)  # the others have the band keys and the matches of their first
    enough = math.ceil(settings.threshold * signatures.shape[1] - 1e-9)

    def match_band(band: int) -> NDArray[np.int64]:
        keys = np.empty(len(distinct), dtype=np.uint64)
        band_keys(signatures, distinct, band, settings.rows, keys)
        order = np.argsort(keys, kind="stable")
        found = matches.copy()
        match_earlier(distinct[order], keys[order], signatures, enough, found)
        return found

    matches = np.minimum.reduce(_in_threads(match_band, range(settings.bands), threads))
    similarity = np.ones(count)
    near = np.flatnonzero(~exact & (matches != np.arange(count)))
    similarity[near] = (signatures[near] == signatures[matches[near]]).mean(axis=1)
    return matches, exact, similarity


def survivors(matches: NDArray[np.int64]) -> NDArray[np.int64]:
    """The kept text at the end of each text's chain of matches, each earlier than the one before."""
    while not np.array_equal(further := matches[matches], matches):
        matches = further
    return matches


def _sign_all(
    documents: Artifact, settings: DeduplicateSettings
) -> tuple[NDArray[np.uint32], NDArray[np.uint64], pa.Array]:
    signed: list[tuple[NDArray[np.uint32], NDArray[np.uint64]]] = []
    ids: list[pa.Array] = []
    for batch in read_documents(documents):
        signed.append(sign_texts(batch["text"].to_arrow(compat_level=pl.CompatLevel.oldest()), settings))
        ids.append(batch["doc_id"].to_arrow(compat_level=pl.CompatLevel.oldest()))
    signatures, contents = zip(*signed, strict=True)
    return np.concatenate(signatures), np.concatenate(contents), pa.concat_arrays(ids)


def _first_of_each(contents: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row the position of the first row that is equal to it."""
    order = np.lexsort((contents[:, 1], contents[:, 0]))  # stable: equal rows stay in their order
    ordered = contents[order]
    begins = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)][: len(order)]
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


def _verdicts(
    ids: pa.Array, matches: NDArray[np.int64], exact: NDArray[np.bool_], similarity: NDArray[np.float64]
) -> pa.Table:
    frame = pl.DataFrame(
        {
            "doc_id": ids,
            "match": ids.take(pa.array(matches)),
            "survivor": ids.take(pa.array(survivors(matches))),
            "dropped": matches != np.arange(len(matches)),
            "exact": exact,
            "similarity": similarity,
        }
    )
    dropped = pl.col("dropped")
    near = pl.format("estimated Jaccard similarity {} to {}", pl.col("similarity").round(3), "match")
    verdicts = frame.select(
        "doc_id",
        pl.lit("deduplicate").alias("stage"),
        pl.when(dropped).then(pl.lit("dropped")).otherwise(pl.lit("kept")).alias("verdict"),
        pl.when("exact").then(pl.lit(EXACT)).when(dropped).then(pl.lit(NEAR)).otherwise(pl.lit("new")).alias("reason"),
        pl.when("exact").then(pl.format("same words as {}", "match")).when(dropped).then(near).alias("evidence"),
        pl.when(dropped).then("survivor").alias("survivor"),
        pl.when(dropped).then("similarity").alias("similarity"),
    )
    return as_table(verdicts, MATCH_VERDICTS)


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int | None) -> list[Result]:
    """Results in the order of the items: the kernels release the GIL, and who computes what shows nowhere."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(pool.map(function, items))
