"""Takes in what is new in the sources, as one table of documents in canonical order, and a table of what it refused.

The inventory is divided into batches of some 32 MB (small files together, a big Parquet file by its row groups, a big
file of JSON lines by ranges of bytes), which the recipe's engine reads side by side. A bad row or file is written down
and passed over: one broken download must not cost a night; too many of them mean that something is wrong with the
source, and stop it. Documents named by the data itself may come twice; the second is then called `name#2`, for which
8 bytes of each document's name are held: the only memory that grows with a night. Text goes at 65 (gzip) to 125 MB
(CSV) a second of CPU time; 0.2 GB and 0.8 GB of JSON lines both took 0.52 GB of memory on two threads.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from models.settings import Settings
from tasks.core.batches import Batches, DoneBatch, Facts
from tasks.core.errors import StageError, UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.documents import BATCH_BYTES, COMPRESSION, SCHEMA, documents_file, write_documents
from tasks.intake.dividing import divide
from tasks.intake.inventory import Inventory
from tasks.intake.reading import REJECTS_FILE, read_batch
from tasks.intake.rejects import REJECTS
from tasks.intake.sources import PythonDocs, Source

Hashes = npt.NDArray[np.uint64]


class IngestSettings(Settings):
    """Which text is taken in."""

    sources: tuple[Source, ...] = Field(default=(PythonDocs(),), min_length=1)
    """Where documents come from, in canonical order."""
    reject_limit: float = Field(default=0.01, ge=0, le=1)
    """Largest share of files and rows that may be unreadable before the stage fails."""

    @model_validator(mode="after")
    def _names_differ(self) -> "IngestSettings":
        names = [source.name for source in self.sources]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two sources are called {min(repeated)!r}; give each a `name` of its own")
        return self

    def to_read(self, inventory: Inventory) -> "IngestSettings":
        """What of the settings matters for reading this inventory. As part of ingest's key it lets a recipe get
        another source or path without old nights being read again."""
        names = {stock.source for stock in inventory.stocks}
        return self.model_copy(
            update={"sources": tuple(source.to_read() for source in self.sources if source.name in names)}
        )


def take_inventory(settings: IngestSettings) -> Inventory:
    """Look at every source without reading it: 0.3 s for an environment of 290 distributions.

    Raises:
        UserError: a path that does not exist, a glob without a match, a package that is not installed, a dataset that
            cannot be found.
        StageError: a remote place cannot be reached.
    """
    return Inventory(stocks=tuple(source.take_stock() for source in settings.sources))


def summary(name: str, value: object) -> str | None:
    """What is new in the sources, in one line."""
    return f"{name}: {value.summary()}" if isinstance(value, Inventory) else None


@stage(version=2, external=True, summary=summary)
def ingest(inventory: Inventory, settings: IngestSettings, out: Path, log: StageLog, batches: Batches) -> Metrics:
    """Write documents-*.parquet (doc_id, text, source) and rejects.parquet (path, row, reason).

    Raises:
        UserError: the sources hold no document at all.
        StageError: more than `reject_limit` of all files and rows were unreadable, or a file changed meanwhile.
    """
    sources = {source.name: source for source in settings.sources}
    parts = divide([(sources[stock.source], stock) for stock in inventory.stocks], batches)
    done = batches.map("read", read_batch, parts)
    documents = sum(count for batch in done for count, _ in batch.facts["files"])
    size = sum(text for batch in done for _, text in batch.facts["files"])
    rejects = sum(batch.facts["rejects"] for batch in done)
    _judge(documents, rejects, done, settings.reject_limit)
    if not documents and all(stock.night == 1 for stock in inventory.stocks):
        raise UserError("The corpus is empty: no source holds a document; check the `sources` of the recipe.")
    named = any(isinstance(source, PythonDocs) or source.columns.id for source in settings.sources)
    _write_documents(done, named, out, batches)
    _write_rejects(done, out / REJECTS_FILE)
    log.info(f"{documents:,} documents, {size / 1e6:.1f} MB of text, {rejects} rejects")
    return {"documents": documents, "bytes": size, "rejects": rejects}


def _judge(documents: int, rejects: int, done: Sequence[DoneBatch], limit: float) -> None:
    if rejects and rejects > limit * (documents + rejects):
        path, row, reason = next(batch.facts["first"] for batch in done if batch.facts["first"])
        place = path if row is None else f"{path} row {row}"
        raise StageError(
            f"{rejects} of {documents + rejects} files and rows could not be read, the first being {place} "
            f"({reason}); mend the source or raise `reject_limit` above {limit:g}."
        )


def _write_documents(done: Sequence[DoneBatch], named: bool, out: Path, batches: Batches) -> None:
    """Hand the batches' files over; those of small batches as one, those with a name that is taken under another."""
    files = [
        (batch, f"documents-{number:05d}.parquet", size)
        for batch in done
        for number, (_, size) in enumerate(batch.facts["files"])
    ]
    renamed = _second_names([batch.folder / name for batch, name, _ in files]) if named else {}
    groups: list[list[int]] = []
    held = BATCH_BYTES
    for index, (_, _, size) in enumerate(files):
        if held + size > BATCH_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(index)
        held += size
    whole = [len(group) == 1 and group[0] not in renamed for group in groups]
    joins = [
        [(str(files[index][0].folder / files[index][1]), renamed.get(index, {})) for index in group]
        for group, alone in zip(groups, whole, strict=True)
        if not alone
    ]
    joined = iter(batches.map("join", join_files, joins))
    for number, (group, alone) in enumerate(zip(groups, whole, strict=True)):
        batch, name = files[group[0]][:2] if alone else (next(joined), "documents-00000.parquet")
        batch.hand_over(name, out / f"documents-{number:05d}.parquet")
    if not groups:
        write_documents(SCHEMA.empty_table(), out / documents_file(0))


def join_files(files: Sequence[tuple[str, dict[int, str]]], folder: Path) -> Facts:
    """Write the documents of several files as one, with other ids for some rows: the work of one batch."""
    tables = []
    for path, names in files:
        table = pq.read_table(path, schema=SCHEMA)
        if names:
            ids = table["doc_id"].to_pylist()
            for row, name in names.items():
                ids[row] = name
            table = table.set_column(0, "doc_id", pa.array(ids, pa.string()))
        tables.append(table)
    write_documents(pa.concat_tables(tables), folder / documents_file(0))
    return {}


def _second_names(files: Sequence[Path]) -> dict[int, dict[int, str]]:
    """By file and row, another id for each document whose own an earlier one has: the id with `#2`, `#3` and so on."""
    hashes = [_hashes(path) for path in files]
    known = np.sort(np.concatenate([*hashes, np.array([], np.uint64)]))
    doubtful = np.unique(known[1:][known[1:] == known[:-1]])
    if not len(doubtful):
        return {}
    seen: Counter[str] = Counter()
    given: set[str] = set()
    renamed: dict[int, dict[int, str]] = {}
    for number, (path, own) in enumerate(zip(files, hashes, strict=True)):
        rows = np.flatnonzero(_among(own, doubtful))
        if not len(rows):
            continue
        for row, doc_id in zip(rows.tolist(), _ids(path).gather(rows).to_list(), strict=True):
            seen[doc_id] += 1
            if seen[doc_id] == 1:
                continue
            while (name := f"{doc_id}#{seen[doc_id]}") in given or _taken(name, known):
                seen[doc_id] += 1
            given.add(name)
            renamed.setdefault(number, {})[row] = name
    return renamed


def _ids(path: Path) -> pl.Series:
    return pl.read_parquet(path, columns=["doc_id"])["doc_id"]


def _hashes(path: Path) -> Hashes:
    return _ids(path).hash(seed=0).to_numpy()


def _taken(name: str, known: Hashes) -> bool:
    return bool(_among(pl.Series([name]).hash(seed=0).to_numpy(), known)[0])


def _among(values: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Which of the values are in the sorted `known`."""
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[places] == values)


def _write_rejects(done: Sequence[DoneBatch], path: Path) -> None:
    with pq.ParquetWriter(path, REJECTS, compression=COMPRESSION) as writer:
        for batch in done:
            if batch.facts["rejects"]:
                for piece in pq.ParquetFile(batch.folder / REJECTS_FILE).iter_batches():
                    writer.write_batch(piece)
