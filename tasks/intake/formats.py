"""Formats: which reader takes a file, and what becomes of a file that its reader cannot take.

Everything is streamed in blocks of 8 MB, so memory does not follow the size of a file; only a file that is one
document (txt, md, html) is read whole.
"""

from collections.abc import Callable

import pyarrow as pa

from models.named import ByName
from tasks.intake.jsonlines import read_jsonl
from tasks.intake.places import read_file
from tasks.intake.rows import Columns, FilePart, Read, Reject, as_rows
from tasks.intake.tables import read_arrow, read_csv, read_parquet
from tasks.intake.warc import read_warc


def suffix_of(name: str) -> str | None:
    """The format's suffix in a file name, or None for a format that is not known."""
    return next((suffix for suffix in FORMATS if name.lower().endswith(suffix)), None)


def read_part(part: FilePart, columns: Columns) -> Read:
    """Tables of ROWS, and what had to be refused; a file that breaks in the middle gives what stands before.

    Raises:
        StageError: a remote file's server failed.
    """
    suffix = suffix_of(part.unit.path)
    assert suffix is not None, part.unit.path  # the inventory holds no other
    row: int | None = None
    try:
        for item in FORMATS[suffix](part, columns):
            if isinstance(item, pa.Table) and item.num_rows and item["row"][-1].is_valid:
                row = item["row"][-1].as_py() + 1
            yield item
    except (OSError, pa.ArrowException) as error:
        yield Reject(part.unit.label, row, reason_of(error))


def reason_of(error: Exception) -> str:
    """What went wrong, without the path: that is named beside it, and a machine's folders stay out of artifacts."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _read_text(part: FilePart, columns: Columns) -> Read:
    try:
        text = read_file(part.unit.path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Reject(part.unit.label, None, str(error))
        return
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    yield as_rows(part, [None], pa.array([text.encode()], pa.large_binary()))


def _read_page(part: FilePart, columns: Columns) -> Read:
    yield as_rows(part, [None], pa.array([read_file(part.unit.path)], pa.large_binary()))


FORMATS: ByName[Callable[[FilePart, Columns], Read]] = {
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".jsonl.zst": read_jsonl,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".txt": _read_text,
    ".md": _read_text,
    ".html": _read_page,
    ".htm": _read_page,
    ".warc": read_warc,
    ".warc.gz": read_warc,
}
"""Readers by the end of a file's name."""
PAGES = (".html", ".htm", ".warc", ".warc.gz")
"""Formats that hold web pages, whatever the recipe says."""
