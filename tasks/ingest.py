"""Takes in text from its sources as one table of documents in canonical order, and a table of what it had to refuse.

Reads each source as a stream and writes 32 MB at a time, so memory does not grow with the corpus. A bad row or file
is written down and passed over: one broken download must not cost a night; too many of them mean that something is
wrong with the source, and stop it.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import StageError, UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.documents import DocumentWriter
from tasks.sources import Document, PythonDocs, Reject, Source, Stock


class IngestSettings(BaseModel):
    """Which text is taken in."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sources: tuple[Source, ...] = Field(default=(PythonDocs(),), min_length=1)
    """Where documents come from, in canonical order."""
    reject_limit: float = Field(default=0.01, ge=0, le=1)
    """Largest share of files and rows that may be unreadable before the stage fails."""


class Inventory(BaseModel):
    """What the sources had when the run began; part of ingest's key, so what is unchanged is not read again."""

    model_config = ConfigDict(frozen=True)
    stocks: tuple[Stock, ...]
    """One for each source of the settings, in their order."""


def take_inventory(settings: IngestSettings) -> Inventory:
    """Look at every source without reading it: 0.3 s for an environment of 220 distributions.

    Raises UserError for a path that does not exist, a glob without a match and a package that is not installed.
    """
    names = [getattr(source, "name", source.kind) for source in settings.sources]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"Two sources are called {min(repeated)!r}: give each a `name` of its own.")
    return Inventory(stocks=tuple(source.take_stock() for source in settings.sources))


@stage(version=1, libraries=("pyarrow",))
def ingest(inventory: Inventory, settings: IngestSettings, out: Path, log: StageLog) -> Metrics:
    """Write documents-*.parquet (doc_id, text, source) and rejects.parquet (path, row, reason).

    Raises:
        UserError: the sources hold no document at all.
        StageError: more than `reject_limit` of all files and rows were unreadable, or a file changed meanwhile.
    """
    writer = DocumentWriter(out)
    rejects: list[Reject] = []
    for source, stock in zip(settings.sources, inventory.stocks, strict=True):
        for item in source.read(stock, lambda done, total: log.progress(done, total, "files")):
            if isinstance(item, Document):
                writer.add(item.doc_id, item.text, item.source)
            else:
                rejects.append(item)
    writer.flush()
    _judge(writer.added, rejects, settings.reject_limit)
    _write_rejects(rejects, out / "rejects.parquet")
    log.info(f"{writer.added:,} documents, {writer.bytes / 1e6:.1f} MB of text, {len(rejects)} rejects")
    return {"documents": writer.added, "bytes": writer.bytes, "rejects": len(rejects)}


def _judge(documents: int, rejects: Sequence[Reject], limit: float) -> None:
    if rejects and len(rejects) > limit * (documents + len(rejects)):
        first = rejects[0]
        place = first.path if first.row is None else f"{first.path} row {first.row}"
        raise StageError(
            f"{len(rejects)} of {documents + len(rejects)} files and rows could not be read, the first being {place} "
            f"({first.reason}); mend the source or raise `reject_limit` above {limit:g}."
        )
    if not documents:
        raise UserError("The corpus is empty: no source holds a document; check the `sources` of the recipe.")


def _write_rejects(rejects: Sequence[Reject], path: Path) -> None:
    schema = pa.schema([("path", pa.string()), ("row", pa.int64()), ("reason", pa.string())])
    pq.write_table(pa.Table.from_pylist([asdict(reject) for reject in rejects], schema), path, compression="zstd")
