"""Drops every document that repeats an earlier one, exactly or nearly, and names the one that stays.

One rule: a document is dropped if an *earlier* one, of this night or any before (whether itself kept or not), has the
same words, or shares a band key with it and is as similar by its sketch as the threshold asks. The verdict depends on
earlier documents only: what follows changes none, and as many nights give what one pass over everything gives.

Five passes, each in batches: sign every file of documents; look up who has the same words; look up who shares band
keys, and compare sketches; follow each match to the document that stays; copy what is kept. Texts are read twice, a
file at a time; keys are worked on a range at a time; tables of a row a document are read from disk where needed.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from models.settings import Settings
from tasks.core.artifact import Artifact
from tasks.core.batches import Batches, DoneBatch, Facts
from tasks.core.errors import StageError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.documents import (
    VERDICTS,
    document_files,
    documents_file,
    text_buffers,
    write_documents,
    write_rows,
)
from tasks.similarity.band_index import (
    MOST_DOCUMENTS,
    DocumentFile,
    Family,
    Keys,
    SortedRun,
    mapped,
    part_bits,
    part_path,
    swallowed_runs,
    table_path,
    take_ids,
    write_entries,
)
from tasks.similarity.matching import SETTLED, Matches, Search, match_part, settle

EXACT = "exact duplicate"
NEAR = "near-duplicate"
SLICE = 1024  # texts that a thread signs at a time
INDEX = "index"
INDEX_FILE = "index.json"
MATCH_VERDICTS = pa.schema([*VERDICTS, ("survivor", pa.string()), ("night", pa.int64()), ("similarity", pa.float64())])


class DeduplicateSettings(Settings):
    """What counts as the same text; the defaults are FineWeb's (Penedo et al. 2024, arXiv 2406.17557, section 3.4)."""

    shingle_words: int = Field(default=5, ge=1, le=1000)
    """Words in a shingle, the unit that two texts are compared by (FineWeb: 5)."""
    bands: int = Field(default=14, ge=1, le=256)
    """LSH bands; two texts are compared if all values of one band are equal (FineWeb: 14)."""
    rows: int = Field(default=8, ge=1, le=256)
    """MinHash values in a band (FineWeb: 8). Each value serves in three groupings of as many bands: at 14 bands of 8,
    texts of Jaccard similarity 0.75 are compared with probability 0.970 (one grouping: 0.772), of 0.8 with 0.997
    (0.924), of 0.85 with 0.9999 (0.988)."""
    threshold: float = Field(default=0.75, gt=0, le=1)
    """Least estimated Jaccard similarity of near-duplicates (FineWeb aims at 0.75). The estimate's standard error is
    0.02 for long texts and less for texts under some 500 words: of edited copies at 0.8 to 0.85, 99.8 % are dropped;
    of all near-duplicates dropped, 97.6 % have a true similarity of 0.75 or more, 99.9 % of 0.71 (tests/benchmarks)."""


class IndexRecord(BaseModel):
    """index.json: what an artifact of this stage says to the nights after it."""

    settings: DeduplicateSettings
    night: int
    start: int
    """Documents of all nights before."""
    counts: list[int]
    """Documents in each file, the dropped ones too."""
    runs: dict[Family, list[SortedRun]]
    """The runs to look into after this night, from the oldest on; together they cover all documents."""

    @property
    def stop(self) -> int:
        """Documents of all nights up to this one: where the next night's positions begin."""
        return self.start + sum(self.counts)


@stage(version=2)
def deduplicate(
    documents: Artifact,
    history: tuple[Artifact, ...],
    settings: DeduplicateSettings,
    out: Path,
    log: StageLog,
    batches: Batches,
) -> Metrics:
    """Write documents-* with what is kept, verdicts-* with a survivor for each drop, and the index for nights to come.

    `survivor` is always a kept document and `night` the number of its partition: where the match was itself dropped,
    its own survivor. `similarity` is that to the match: 1 for an exact duplicate, else the estimated Jaccard one.

    Args:
        history: this stage's artifacts of all partitions before, from the first on.

    Raises:
        StageError: the history is not the whole history, in order, under the same settings.
    """
    before = _read_history(history, settings)
    start = before[-1].stop if before else 0
    paths = document_files(documents)
    signed = batches.map("sign", partial(sign_file, settings), list(enumerate(paths)))
    counts = [batch.facts["documents"] for batch in signed]
    log.info(f"signed {sum(counts):,} documents")
    older = tuple(
        file
        for artifact, record in zip(history, before, strict=True)
        for file in _files([artifact.path / INDEX] * len(record.counts), record.start, record.counts)
    )
    tonight = tuple(_files([batch.folder for batch in signed], start, counts))
    search = partial(
        _search,
        older=older,
        tonight=tonight,
        start=start,
        folders=tuple(artifact.path / INDEX for artifact in history),
        before=before[-1] if before else None,
        threshold=settings.threshold,
    )
    same = search("words", entries=sum(batch.facts["words"] for batch in signed), repeated=())
    exact = batches.map(same.family, partial(match_part, same), range(1 << same.bits))
    repeated = tuple(batch.folder / "matches" for batch in exact)
    alike = search("bands", entries=sum(batch.facts["bands"] for batch in signed), repeated=repeated)
    near = batches.map(alike.family, partial(match_part, alike), range(1 << alike.bits))
    found = tuple((batch.folder / "matches", tuple(batch.facts["ends"])) for batch in (*exact, *near))
    (settled,) = batches.map("settle", settle, [Matches(older, tonight, found, len(exact))])
    copying = partial(copy_file, older + tonight, settled.folder, [*(record.start for record in before), start])
    copied = batches.map("copy", copying, list(zip(paths, tonight, strict=True)))

    (out / INDEX).mkdir()
    runs = {}
    for one, parts in ((same, exact), (alike, near)):
        hand_over_run(one.family, parts, out / INDEX)
        run = SortedRun(
            night=len(history), start=one.run_start, entries=sum(part.facts["entries"] for part in parts), bits=one.bits
        )
        runs[one.family] = [*one.live[: len(one.live) - one.swallowed], run]
    record = IndexRecord(settings=settings, night=len(history), start=start, counts=counts, runs=runs)
    (out / INDEX / INDEX_FILE).write_text(record.model_dump_json(indent=1))
    for number, (signature, copy) in enumerate(zip(signed, copied, strict=True)):
        for table in ("contents", "sketches", "ids"):
            path = table_path(Path(), number, table)
            signature.hand_over(path.name, out / INDEX / path)
        survivors = table_path(Path(), number, "survivors")
        settled.hand_over(survivors.name, out / INDEX / survivors)
        for kind in ("documents", "verdicts"):
            copy.hand_over(f"{kind}-{number:05d}.parquet", out / f"{kind}-{number:05d}.parquet")
    total = {name: sum(copy.facts[name] for copy in copied) for name in ("kept", "kept_bytes", "exact", "near")}
    log.info(f"{total['kept']:,} of {sum(counts):,} documents repeat none before them")
    return {
        "documents": sum(counts),
        "kept": total["kept"],
        "kept_bytes": total["kept_bytes"],
        "dropped_exact_duplicate": total["exact"],
        "dropped_near_duplicate": total["near"],
    }


def sign_file(settings: DeduplicateSettings, item: tuple[int, Path], folder: Path) -> Facts:
    """Write the tables "contents", "sketches" and "ids" of a file of documents, and its entries of both families."""
    number, path = item
    table = pq.ParquetFile(path).read(["doc_id", "text"])
    keys, sketches, contents = sign_texts(table["text"].combine_chunks(), settings)
    with_words = np.flatnonzero(contents.any(axis=1))
    write_entries(folder, "words", contents[:, :1], with_words)
    write_entries(folder, "bands", keys, with_words)
    contents.tofile(table_path(folder, number, "contents"))
    sketches.tofile(table_path(folder, number, "sketches"))
    ids = table.select(["doc_id"]).combine_chunks()
    with pa.ipc.new_file(str(table_path(folder, number, "ids")), ids.schema) as writer:
        writer.write_table(ids)
    return {"documents": len(contents), "words": len(with_words), "bands": len(with_words) * keys.shape[1]}


def sign_texts(
    texts: pa.LargeStringArray, settings: DeduplicateSettings
) -> tuple[Keys, NDArray[np.uint64], NDArray[np.uint64]]:
    """Band keys (uint64, shape [texts, GROUPINGS x bands]), sketches (uint64, shape [texts, SKETCH_WORDS]) and contents
    (uint64, shape [texts, 2]); see tasks/similarity/minhash.py."""
    from tasks.similarity.minhash import GROUPINGS, SKETCH_WORDS, band_keys, permutations, sign

    data, offsets = text_buffers(texts)
    multipliers, summands = permutations(settings.bands * settings.rows)
    keys = np.empty((len(texts), GROUPINGS * settings.bands), dtype=np.uint64)
    sketches = np.empty((len(texts), SKETCH_WORDS), dtype=np.uint64)
    contents = np.empty((len(texts), 2), dtype=np.uint64)

    def sign_slice(first: int) -> None:
        last = min(first + SLICE, len(texts))
        signatures = np.empty((last - first, len(multipliers)), dtype=np.uint32)
        width = settings.shingle_words
        sign(data, offsets, first, last, width, multipliers, summands, signatures, sketches, contents)
        band_keys(signatures, settings.bands, settings.rows, keys[first:last])

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a small night is one file, and may have all cores
        list(pool.map(sign_slice, range(0, len(texts), SLICE)))
    return keys, sketches, contents


def copy_file(
    files: tuple[DocumentFile, ...],
    settled_in: Path,
    starts: Sequence[int],
    item: tuple[Path, DocumentFile],
    folder: Path,
) -> Facts:
    """Write what is kept of a file of documents, and its verdicts.

    Args:
        starts: position of the first document of each night.
    """
    path, file = item
    settled = mapped(table_path(settled_in, file.number, "settled"), SETTLED)
    kept = settled["match"] == np.arange(file.start, file.start + file.count)
    documents = pl.read_parquet(path)
    staying = documents.filter(pl.Series(kept, dtype=pl.Boolean))
    write_documents(staying, folder / documents_file(file.number))
    verdicts = _verdicts(documents["doc_id"], files, settled, ~kept, starts)
    write_rows(verdicts, MATCH_VERDICTS, folder / f"verdicts-{file.number:05d}.parquet")
    return {
        "kept": int(kept.sum()),
        "kept_bytes": int(staying["text"].str.len_bytes().sum()),
        "exact": int(settled["exact"].sum()),
        "near": int((~kept & ~settled["exact"]).sum()),
    }


def hand_over_run(family: Family, parts: Sequence[DoneBatch], folder: Path) -> None:
    """Give the parts of tonight's run to the artifact's index."""
    for number, part in enumerate(parts):
        for column in ("keys", "positions"):
            name = part_path(Path(), family, number, column).name
            part.hand_over(name, folder / name)


def _read_history(history: Sequence[Artifact], settings: DeduplicateSettings) -> list[IndexRecord]:
    records: list[IndexRecord] = []
    for night, artifact in enumerate(history):
        record = IndexRecord.model_validate_json((artifact.path / INDEX / INDEX_FILE).read_bytes())
        expected = (settings, night, records[-1].stop if records else 0)
        if (record.settings, record.night, record.start) != expected:
            raise StageError(
                f"{artifact.path} cannot stand as night {night} of the history (it was deduplicated as night "
                f"{record.night} from document {record.start:,} on with {record.settings}); begin again from night 0"
            )
        records.append(record)
    return records


def _files(folders: Sequence[Path], start: int, counts: Sequence[int]) -> list[DocumentFile]:
    """The files of a night that begins at position `start`."""
    starts = np.cumsum([start, *counts]).tolist()
    return [DocumentFile(folder, number, starts[number], counts[number]) for number, folder in enumerate(folders)]


def _search(
    family: Family,
    older: tuple[DocumentFile, ...],
    tonight: tuple[DocumentFile, ...],
    start: int,
    folders: tuple[Path, ...],
    before: IndexRecord | None,
    threshold: float,
    entries: int,
    repeated: tuple[Path, ...],
) -> Search:
    live = tuple(before.runs[family]) if before else ()
    swallowed = swallowed_runs(live, entries)
    if swallowed and start + sum(file.count for file in tonight) - live[-swallowed].start > MOST_DOCUMENTS:
        swallowed = 0
    bits = part_bits(entries + sum(run.entries for run in live[len(live) - swallowed :]))
    return Search(family, older, tonight, start, folders, live, swallowed, entries, bits, threshold, repeated)


def _verdicts(
    ids: pl.Series,
    files: Sequence[DocumentFile],
    settled: NDArray[Any],
    dropped: NDArray[np.bool_],
    starts: Sequence[int],
) -> pl.DataFrame:
    rows = np.flatnonzero(dropped)
    named = pl.DataFrame(
        {
            "row": rows,
            "match": take_ids(files, settled["match"][rows]),
            "survivor": take_ids(files, settled["survivor"][rows]),
            "night": np.searchsorted(starts, settled["survivor"][rows], "right") - 1,
            "similarity": settled["similarity"][rows],
            "exact": settled["exact"][rows],
        }
    )
    frame = pl.DataFrame({"doc_id": ids}).with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    exact, dropped_one = pl.col("exact"), pl.col("exact").is_not_null()
    near = pl.format("estimated Jaccard similarity {} to {}", pl.col("similarity").round(3), "match")
    return frame.join(named, on="row", how="left", maintain_order="left").select(
        "doc_id",
        pl.lit("deduplicate").alias("stage"),
        pl.when(dropped_one).then(pl.lit("dropped")).otherwise(pl.lit("kept")).alias("verdict"),
        pl.when(exact)
        .then(pl.lit(EXACT))
        .when(dropped_one)
        .then(pl.lit(NEAR))
        .otherwise(pl.lit("new"))
        .alias("reason"),
        pl.when(exact).then(pl.format("same words as {}", "match")).when(dropped_one).then(near).alias("evidence"),
        "survivor",
        "night",
        "similarity",
    )
