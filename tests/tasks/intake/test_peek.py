"""Columns are told from the first bytes of a file, in every format that has any."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import zstandard

from tasks.intake.peek import columns_of, lacking


def made(folder: Path, name: str) -> str:
    """A file of that format with the columns body and id."""
    path = folder / name
    table = pa.table({"body": ["One."], "id": ["x"]})
    lines = b'{"body": "One."}\n{"id": "x"}\n{"body": "cut'
    if name.endswith(".parquet"):
        pq.write_table(table, path)
    elif name.endswith(".arrow"):
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    elif ".csv" in name:
        header = b'body,"id"\r\n"a\nb",c\r\n'
        path.write_bytes(gzip.compress(header) if name.endswith("gz") else header)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines))
    elif name.endswith(".zst"):
        path.write_bytes(zstandard.compress(lines))
    else:
        path.write_bytes(lines)
    return str(path)


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.arrow", "a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "A.PARQUET"]
)
def test_a_table_tells_its_columns(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name) if name != "A.PARQUET" else made(tmp_path, "b.parquet")
    assert columns_of(path) == {"body", "id"}
    assert lacking([path], ["body", "id"]) is None
    assert lacking([path], ["body", "url"]) == ("url", Path(path).name, {"body", "id"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1"),
        ("a.arrow", b""),
        ("a.csv", b""),
        ("a.csv.gz", b"no gzip"),
        ("a.jsonl", b"[1, 2]\n"),
        ("a.jsonl", b"not JSON\n"),
        ("a.jsonl", json.dumps({"a": 1}).encode()[:-1] + b', "b":' + b'{"c":' * 100_000),
        ("a.txt", b"text"),
        ("a.html", b"<p>"),
    ],
)
def test_what_cannot_be_told_is_left_to_the_stage(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert columns_of(str(tmp_path / name)) is None
    assert lacking([str(tmp_path / name)], ["text"]) is None


def test_one_file_that_has_the_column_is_enough(tmp_path: Path) -> None:
    good, bad = made(tmp_path, "a.jsonl"), made(tmp_path, "b.csv")
    (tmp_path / "c.csv").write_text("url\nx\n")
    assert lacking([str(tmp_path / "c.csv"), good, bad], ["body"]) is None
    assert lacking([], ["body"]) is None
    assert columns_of("s3://bucket/a.parquet") is None
