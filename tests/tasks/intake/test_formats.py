"""Formats: each gives the rows that are in it, numbered as they stand, and names what it had to refuse."""

import gzip
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.intake.formats import read_part
from tasks.intake.inventory import Unit
from tasks.intake.jsonlines import count_lines
from tasks.intake.rows import Columns, FilePart, Reject

Read = list[tuple[int | None, str | None]]


def part(path: Path, **place: int) -> FilePart:
    state = path.stat()
    return FilePart(Unit(name=path.name, path=str(path), size=state.st_size, mark=str(state.st_mtime_ns)), **place)


def read(piece: FilePart, **columns: str) -> tuple[Read, list[tuple[int | None, str]]]:
    """(row, text) of all rows, and (row, reason) of all rejects."""
    rows: Read = []
    rejects = []
    for item in read_part(piece, Columns(**columns)):
        if isinstance(item, Reject):
            rejects.append((item.row, item.reason))
        else:
            texts = [None if text is None else text.decode(errors="replace") for text in item["text"].to_pylist()]
            rows += zip(item["row"].to_pylist(), texts, strict=True)
    return rows, rejects


def packed(path: Path, content: bytes) -> Path:
    packers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.compress}
    path.write_bytes(packers.get(path.suffix, bytes)(content))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.JSONL"])
def test_json_lines_are_numbered_as_they_stand(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / name, b'\xef\xbb\xbf{"text": "a", "x": [1]}\n\n{"text": "\\u00e9"}\r\n  \n{"text": "c"}')
    assert read(part(path)) == ([(0, "a"), (2, "é"), (4, "c")], [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": 3}', "'text' holds no text but int"),
        ('{"text": null}', "'text' holds no text but NoneType"),
        ('{"other": "x"}', "no field 'text'"),
        ('["text"]', "no field 'text'"),
        ('{"text": "x"', "not JSON: Expecting ',' delimiter"),
        ('{"text": "x"} {"text": "y"}', "not JSON: Extra data"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        ("\x80", "not JSON: 'utf-8' codec"),
        ("[" * 100_000, "not JSON: maximum recursion depth"),
    ],
)
def test_a_bad_line_is_refused_alone_and_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "before"}\n' + line.encode("latin-1") + b'\n{"text": "after"}\n')
    rows, rejects = read(part(path))
    assert rows == [(0, "before"), (2, "after")]
    assert [row for row, _ in rejects] == [1]
    assert reason in rejects[0][1]


def test_ids_may_be_numbers_or_text_even_in_one_file_but_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "t", "id": id}) + "\n" for id in (7, "x", None, True, [1])))
    tables = list(read_part(part(path), Columns(id="id")))
    assert [table["id"].to_pylist() for table in tables if isinstance(table, pa.Table)] == [[b"7", b"x", None]]
    reasons = [item.reason for item in tables if isinstance(item, Reject)]
    assert reasons == ["'id' holds no name but bool", "'id' holds no name but list"]


LINE = st.one_of(st.just(""), st.just("{"), st.text(max_size=30).map(lambda text: json.dumps({"text": text})))


@given(st.lists(LINE, max_size=30), st.lists(st.integers(0, 600), max_size=5), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_read_in_pieces_is_the_file_read_whole(
    tmp_path: Path, lines: list[str], cuts: list[int], closed: bool
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + ("\n" if closed else ""), encoding="utf-8")
    whole = part(path)
    size = whole.unit.size
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    rows: Read = []
    rejects = []
    number = 0
    for start, stop in pairwise(edges):
        piece = FilePart(whole.unit, start=start, stop=stop, row=number)
        some, refused = read(piece)
        rows += some
        rejects += refused
        number += count_lines(piece)
    assert (rows, rejects) == read(whole)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_rows_are_numbered_from_the_header_on_and_a_ragged_one_is_refused(tmp_path: Path, name: str) -> None:
    content = '\ufeffid,text\n1,"two\nlines, ""quoted"""\n2,b,c\n3\n4,\n5,é\n'
    path = packed(tmp_path / name, content.encode())
    assert read(part(path)) == (
        [(0, 'two\nlines, "quoted"'), (3, ""), (4, "é")],
        [(1, "3 fields where the header has 2"), (2, "1 fields where the header has 2")],
    )


def test_csv_rows_after_many_blocks_keep_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.intake.tables.BLOCK", 50)
    bad = {3, 4, 50, 99}
    lines = [f"{n},{'x' * (n % 7)}" + (",extra" if n in bad else "") for n in range(100)]
    path = tmp_path / "a.csv"
    path.write_text("n,text\n" + "\n".join(lines) + "\n")
    rows, rejects = read(part(path))
    assert rows == [(n, "x" * (n % 7)) for n in range(100) if n not in bad]
    assert [row for row, _ in rejects] == sorted(bad)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"id\n1\n", "no column 'text'"),
        ("a.jsonl.gz", b"plain text", "incorrect header check"),
        ("a.jsonl.zst", b"plain text", "Unknown frame descriptor"),
        (
            "a.csv.gz",
            gzip.compress(b"text\n" + bytes(range(32, 127)) * 99, mtime=0)[:-9],
            "Truncated compressed stream",
        ),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 9, mtime=0)[:-9], "Truncated compressed stream"),
        ("a.parquet", b"PAR1 but not really", "Parquet magic bytes not found"),
        ("a.arrow", b"not really", "metadata bytes"),
        ("a.txt", b"\xff\xfe\xfa", "'utf-8' codec can't decode byte 0xff"),
        ("a.warc", b"not really", "Invalid WARC header"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_whole(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    rows, rejects = read(part(path))
    assert rows == []
    assert [row for row, _ in rejects] == [None]
    assert reason in rejects[0][1]
    assert str(tmp_path) not in rejects[0][1]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.jsonl.gz"])
def test_an_empty_file_is_no_error(tmp_path: Path, name: str) -> None:
    rows, rejects = read(part(packed(tmp_path / name, b"")))
    assert (rows, rejects) == ([(None, "")] if name == "a.txt" else [], [])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())])
def test_parquet_text_may_be_stored_in_any_way_that_holds_text(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"text": pa.array(["a", None, "é"]).cast(kind)}), path)
    assert read(part(path)) == ([(0, "a"), (1, None), (2, "é")], [])


def test_parquet_columns_of_another_kind_are_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": [1.5], "id": [[1]]}).write_parquet(path)
    assert read(part(path)) == ([], [(None, "column 'text' holds no text but double")])
    pl.DataFrame({"text": ["x"], "id": [1.5]}).write_parquet(path)
    assert read(part(path), id="id") == ([], [(None, "column 'id' holds no name but double")])


def test_a_row_group_is_numbered_as_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": [str(n) for n in range(10)]}).write_parquet(path, row_group_size=4)
    assert read(part(path, group=1, row=4)) == ([(n, str(n)) for n in range(4, 8)], [])


def response(uri: str, body: bytes, kind: str = "text/html", head: str = "", status: int = 200) -> bytes:
    """A WARC record with an HTTP response."""
    http = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\n{head}\r\n".encode() + body
    return (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{uri}>\r\nWARC-Target-URI: {uri}\r\n"
        "WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    ).encode() + http + b"\r\n\r\n"  # fmt: skip


CHUNKED = b"3\r\n<p>\r\n5;x=y\r\nchunk\r\n0\r\n\r\n"
ARCHIVE = [
    response("http://a/0", b"<p>plain"),
    response("http://a/1", gzip.compress(b"<p>packed"), head="Content-Encoding: gzip\r\n"),
    response("http://a/2", b"GIF89a", kind="image/gif"),
    response("http://a/3", CHUNKED, head="Transfer-Encoding: chunked\r\n", kind="application/xhtml+xml"),
    response("http://a/4", b"<p>not found", status=404),
    response("http://a/5", b"<p>unpacked by the crawler", head="Content-Encoding: gzip\r\n"),
    response("http://a/6", gzip.compress(b"<p>torn", mtime=0)[:-9], head="Content-Encoding: gzip\r\n"),
    response("http://a/7", b"whatever", head="Content-Encoding: br\r\n"),
]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_an_archive_gives_its_pages_unpacked_and_refuses_what_it_cannot_unpack(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"".join(gzip.compress(record) if name.endswith(".gz") else record for record in ARCHIVE))
    assert read(part(path)) == (
        [(0, "<p>plain"), (1, "<p>packed"), (3, "<p>chunk"), (5, "<p>unpacked by the crawler")],
        [(6, "its packed body ends early"), (7, "packed with br, which is not unpacked here")],
    )


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_torn_archive_gives_what_is_whole_and_refuses_its_last_record(tmp_path: Path, name: str) -> None:
    records = [response("http://a/0", b"<p>whole"), response("http://a/1", bytes(range(256)) * 40)]
    path = tmp_path / name
    path.write_bytes(b"".join(gzip.compress(record) if name.endswith(".gz") else record for record in records)[:-200])
    rows, rejects = read(part(path))
    assert rows == [(0, "<p>whole")]
    assert [row for row, _ in rejects] == [1]
    assert "of 10240 bytes" in rejects[0][1]


def test_a_broken_place_in_an_archive_keeps_what_is_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(ARCHIVE[0] + b"junk junk\r\n" + ARCHIVE[1])
    assert read(part(path)) == ([(0, "<p>plain")], [(1, "Invalid WARC header")])
