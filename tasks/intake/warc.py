"""WARC: the HTML pages in an archive of a crawl. fastwarc finds the records; the page's main text is found later.

Taken are responses with status 200 that say they are HTML; other records are no documents and no rejects. A record
that ends early is a reject: fastwarc gives what there is of it without a word, so its length is compared.
"""

import zlib
from contextlib import closing
from typing import Any

import pyarrow as pa

from tasks.intake.places import open_file
from tasks.intake.rows import BLOCK, Columns, FilePart, Read, Reject, as_rows

FIELDS = ("text", "url", "date", "record_id")
HTML = ("text/html", "application/xhtml+xml")
PAGE_LIMIT = 64_000_000
"""Bytes of one page, unpacked: a few bytes of gzip can claim to be gigabytes."""


def read_warc(part: FilePart, columns: Columns) -> Read:
    """Tables of ROWS with pages as text; `row` counts the archive's responses."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    for column in (columns.id, columns.source):
        if column is not None and column not in FIELDS:
            yield Reject(part.unit.label, None, f"no column {column!r} among {', '.join(FIELDS)}")
            return
    held: list[tuple[int, bytes, str | None, str | None, str | None]] = []
    size = 0
    with closing(open_file(part.unit.path)) as stream:
        records = ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True, auto_decode="none")
        try:
            for number, record in enumerate(records, part.row):
                if record.http_headers is None or record.http_headers.status_code != 200:
                    continue
                if (record.http_content_type or "").lower() not in HTML:
                    continue
                body = record.reader.read()
                if len(body) < record.content_length:
                    yield Reject(part.unit.label, number, f"ends after {len(body)} of {record.content_length} bytes")
                    continue
                try:
                    page = _unpacked(body, record.http_headers)
                except ValueError as error:
                    yield Reject(part.unit.label, number, str(error))
                    continue
                known = {
                    "url": record.headers.get("WARC-Target-URI"),
                    "date": record.headers.get("WARC-Date"),
                    "record_id": record.record_id,
                }
                held.append(
                    (number, page, known.get(columns.id or ""), known.get(columns.source or ""), record.http_charset)
                )
                size += len(page)
                if size >= BLOCK:
                    yield _table(part, held)
                    held, size = [], 0
        except OSError:  # the archive is broken from here on
            if held:
                yield _table(part, held)
            raise
    if held:
        yield _table(part, held)


def _table(part: FilePart, held: list[Any]) -> pa.Table:
    numbers, pages, ids, sources, charsets = zip(*held, strict=True)
    text, id, source = (pa.array(values, pa.large_binary()) for values in (pages, _bytes(ids), _bytes(sources)))
    return as_rows(part, numbers, text, id, source, pa.array(charsets, pa.string()))


def _bytes(names: tuple[str | None, ...]) -> list[bytes | None]:
    return [None if name is None else name.encode("utf-8", "replace") for name in names]


def _unpacked(body: bytes, headers: Any) -> bytes:
    """A response's body without its transfer and content encodings. Crawlers that unpack a body often leave the
    header that says it is packed, so what does not look packed is taken as it is.

    Raises ValueError for a packed body that cannot be unpacked.
    """
    if "chunked" in (headers.get("Transfer-Encoding") or "").lower():
        body = _joined(body)
    encoding = (headers.get("Content-Encoding") or "identity").lower()
    if encoding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        return _inflated(body, 31)
    if encoding == "deflate":
        return _inflated(body, 15 if body[:1] == b"\x78" else -15)
    if encoding in ("br", "zstd"):
        raise ValueError(f"packed with {encoding}, which is not unpacked here")
    return body


def _inflated(body: bytes, window: int) -> bytes:
    inflate = zlib.decompressobj(window)
    try:
        page = inflate.decompress(body, PAGE_LIMIT)
    except zlib.error as error:
        raise ValueError(f"its packed body is broken: {error}") from error
    if not inflate.eof:
        ends = "is larger than 64 MB" if len(page) == PAGE_LIMIT else "ends early"
        raise ValueError(f"its packed body {ends}")
    return page


def _joined(body: bytes) -> bytes:
    """The chunks of a body as one, or the body itself where it is not in chunks."""
    pieces: list[bytes] = []
    place = 0
    while True:
        line, found, _ = body[place : place + 100].partition(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            return body
        place += len(line) + 2
        if not found or size < 0:
            return body
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[place : place + size])
        place += size + 2
