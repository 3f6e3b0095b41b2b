"""One batch of ingest: from rows to documents with ids, checked, in files; and from the installed Python likewise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.batches import Facts
from tasks.core.errors import StageError
from tasks.corpus.documents import COMPRESSION, SCHEMA, DocumentWriter, as_documents
from tasks.intake.docstrings import SourceFile, extract_files
from tasks.intake.formats import PAGES, read_part, reason_of, suffix_of
from tasks.intake.places import stamp
from tasks.intake.rejects import REJECTS
from tasks.intake.rows import BLOCK, ROWS, Columns, FilePart, Reject
from tasks.intake.webpage import Pages

REJECTS_FILE = "rejects.parquet"
REJECTS_HELD = 10_000
TABLES_HELD = 1_000


@dataclass(frozen=True)
class FilesBatch:
    """Some 32 MB of files of one source."""

    source: str
    columns: Columns
    html: bool
    night: int
    parts: tuple[FilePart, ...]


@dataclass(frozen=True)
class PythonBatch:
    """Some 8 MB of Python's documentation: first topics, then docstrings (with the source that each is of), then
    licence texts (name, path)."""

    night: int
    topics: bool = False
    modules: tuple[tuple[SourceFile, str], ...] = ()
    licences: tuple[tuple[str, Path], ...] = ()


class RejectWriter:
    """Takes rejects and writes them to a file, if there are any, some thousands at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0
        self.first: Reject | None = None
        self._held: list[Reject] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "RejectWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, reject: Reject) -> None:
        """Take one reject; some thousands are held before they are written together."""
        self.first = self.first or reject
        self.written += 1
        self._held.append(reject)
        if len(self._held) == REJECTS_HELD:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer = self._writer or pq.ParquetWriter(self.path, REJECTS, compression=COMPRESSION)
            held, self._held = self._held, []
            columns = [[getattr(reject, name) for reject in held] for name in REJECTS.names]
            self._writer.write_table(pa.table(columns, schema=REJECTS))


def read_batch(batch: FilesBatch | PythonBatch, folder: Path) -> Facts:
    """Write documents-*.parquet and, if there is cause, rejects.parquet.

    Returns:
        files: documents and bytes of text of each documents file; rejects: how many; first: path, row and reason of
        the first reject.

    Raises:
        StageError: a file changed since stock was taken, or a server failed.
    """
    writer = DocumentWriter(folder)
    with RejectWriter(folder / REJECTS_FILE) as rejects:
        if isinstance(batch, FilesBatch):
            _Reader(batch, writer, rejects).read()
        else:
            _read_python(batch, writer, rejects)
        writer.flush()
    pa.default_memory_pool().release_unused()  # else memory grows with the batches that a worker has done
    first = rejects.first and [rejects.first.path, rejects.first.row, rejects.first.reason]
    return {"files": writer.files, "rejects": rejects.written, "first": first}


class _Reader:
    """Reads the files of one batch; small ones are held together until they are worth a table."""

    def __init__(self, batch: FilesBatch, writer: DocumentWriter, rejects: RejectWriter) -> None:
        self.batch = batch
        self.writer = writer
        self.rejects = rejects
        self._held: list[pa.Table] = []
        self._html = False

    def read(self) -> None:
        with Pages() as pages:
            for part in self.batch.parts:
                html = self.batch.html or suffix_of(part.unit.path) in PAGES
                for item in read_part(part, self.batch.columns):
                    if isinstance(item, Reject) or html != self._html:
                        self._flush(pages)
                        self._html = html
                    if isinstance(item, Reject):
                        self.rejects.add(item)
                    else:
                        self._held.append(item)
                    if sum(table.nbytes for table in self._held) > BLOCK or len(self._held) == TABLES_HELD:
                        self._flush(pages)
                _confirm(part)
            self._flush(pages)

    def _flush(self, pages: Pages) -> None:
        if not self._held:
            return
        held, self._held = self._held, []
        rows = self._checked(pa.concat_tables(held))
        if self._html:
            rows = self._extracted(rows, pages)
        self.writer.add_table(_documents(rows, self.batch))

    def _checked(self, rows: pa.Table) -> pa.Table:
        """The rows that hold text, in UTF-8; of pages the charset is not known yet."""
        columns = self.batch.columns
        rows = self._without(rows, pc.is_null(rows["text"]), f"{columns.text!r} holds no text but NoneType")
        names = {"text": columns.text, "id": columns.id, "source": columns.source}
        for name in ("id", "source") if self._html else ("text", "id", "source"):
            try:
                pc.cast(rows[name], pa.large_string())
            except pa.ArrowInvalid:
                broken = pa.array([not _is_utf8(value) for value in rows[name].to_pylist()])
                rows = self._without(rows, broken, f"{names[name]!r} is not UTF-8")
        return rows

    def _extracted(self, rows: pa.Table, pages: Pages) -> pa.Table:
        """The rows with the main text of their pages."""
        answers = pages.extract(rows.select(["text", "charset"]).rename_columns(["page", "charset"]))
        rows = rows.set_column(ROWS.get_field_index("text"), "text", answers["text"].cast(pa.large_binary()))
        refused = pc.is_valid(answers["error"])
        return self._without(rows, refused, answers["error"].filter(refused).to_pylist())

    def _without(self, rows: pa.Table, refused: pa.Array, reasons: str | Sequence[str]) -> pa.Table:
        bad = rows.filter(refused)
        for index, (path, row) in enumerate(zip(bad["path"].to_pylist(), bad["row"].to_pylist(), strict=True)):
            self.rejects.add(Reject(path, row, reasons if isinstance(reasons, str) else reasons[index]))
        return rows.filter(pc.invert(refused)) if bad.num_rows else rows


def _documents(rows: pa.Table, batch: FilesBatch) -> pa.Table:
    """Documents of rows whose columns are known to be UTF-8."""
    numbered = pc.binary_join_element_wise(rows["path"], pc.cast(rows["row"], pa.string()), "#")
    given = versioned(_filled(rows["id"]), batch.night)
    given = pc.binary_join_element_wise(f"{batch.source}/", given, "")
    columns = [
        pc.coalesce(given, numbered, rows["path"]),
        rows["text"],
        pc.coalesce(_filled(rows["source"]), batch.source),
    ]
    return pa.Table.from_arrays(columns, names=SCHEMA.names).cast(SCHEMA)


def _filled(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names as text, null where there is none: CSV cannot say null but by an empty field."""
    names = pc.cast(names, pa.string())
    return pc.if_else(pc.equal(names, ""), None, names)


def versioned(ids: pa.Array, night: int) -> pa.Array:
    """Ids that were given, told apart from those of earlier nights: from the second on with `@2` behind them. One of
    the first night that happens to end like that gets `@1`, so that no two nights can mean the same."""
    if night > 1:
        return pc.binary_join_element_wise(ids, f"@{night}", "")
    return pc.if_else(pc.match_substring_regex(ids, r"@\d+(#\d+)?$"), pc.binary_join_element_wise(ids, "@1", ""), ids)


def _confirm(part: FilePart) -> None:
    """Raises StageError where a file is no longer what stock was taken of."""
    try:
        now = stamp(part.unit.path)
    except OSError:  # gone, or closed to us: its reader has said so
        return
    if now != (part.unit.size, part.unit.mark):
        raise StageError(f"{part.unit.path} changed while it was being read; run again when it is complete.")


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_python(batch: PythonBatch, writer: DocumentWriter, rejects: RejectWriter) -> None:
    rows: list[tuple[str, str, str]] = []
    if batch.topics:
        from pydoc_data.topics import topics

        rows += [(f"topics/{topic}", text.strip(), "topics") for topic, text in sorted(topics.items())]
    files = [file for file, _ in batch.modules]
    for (file, source), extracted in zip(batch.modules, extract_files(files, processes=1), strict=True):
        if extracted.error:
            rejects.add(Reject(f"{source}/{file.module}", None, extracted.error))
        rows += [(f"{source}/{name}", text, source) for name, text in extracted.documents]
    for name, path in batch.licences:
        try:
            rows.append((f"licences/{name}", path.read_text(encoding="utf-8-sig").strip(), "licences"))
        except (OSError, UnicodeDecodeError) as error:
            rejects.add(Reject(f"licences/{name}", None, reason_of(error)))
    if rows:
        documents = as_documents(rows)
        writer.add_table(documents.set_column(0, SCHEMA.field(0), versioned(documents["doc_id"], batch.night)))
