"""Ingest: every kind of source, stable ids, rejects instead of crashes, one sentence for what the user got wrong."""

import os
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches
from tasks.core.errors import StageError, UserError
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.ingest import IngestSettings, ingest, take_inventory
from tasks.intake.docstrings import SourceFile, extract, extract_files
from tasks.intake.rows import Columns
from tasks.intake.sources import Files, PythonDocs
from tests.corpora import fresh, rows_of

MODULE = '''"""What the module is for."""

import os

if os.name:
    def choose(first, second=None, *rest: int) -> bool:
        """Choose one.

        Flush.
            Indented.
        """
        return True


class Box(dict):
    """Holds things."""

    size = 3

    def __init__(
        self,
        height: int = 2,
        *,
        width: int = 4,
    ) -> None:
        self.height = height

    def open(self):
        "Open the box."

    def hidden(self):
        pass

    class Lid:
        """Closes the box."""


class Plain:
    def silent(self):
        pass


def undocumented():
    return """not a docstring"""
'''


def batches_for(folder: Path) -> Batches:
    return Batches(folder.parent / f"batches-{folder.name}")


def run(folder: Path, *sources: Files | PythonDocs, reject_limit: float = 0.01) -> Metrics:
    settings = IngestSettings(sources=sources, reject_limit=reject_limit)
    return ingest(take_inventory(settings), settings, fresh(folder), StageLog(), batches_for(folder))


def files(*paths: Path | str, name: str = "notes", **settings: Any) -> Files:
    return Files(paths=tuple(str(path) for path in paths), name=name, **settings)


def test_objects_are_named_titled_and_cleaned() -> None:
    assert extract(MODULE.encode(), "pack.boxes") == [
        ("pack.boxes", "pack.boxes\n\nWhat the module is for."),
        (
            "pack.boxes.choose",
            "pack.boxes.choose(first, second=None, *rest: int) -> bool\n\nChoose one.\n\nFlush.\n    Indented.",
        ),
        (
            "pack.boxes.Box",
            "class pack.boxes.Box(dict)\n\nHolds things.\n\n"
            "__init__(self, height: int = 2, *, width: int = 4) -> None\n\n"
            "open(self)\n    Open the box.",
        ),
        ("pack.boxes.Box.Lid", "class pack.boxes.Box.Lid\n\nCloses the box."),
    ]


@pytest.mark.parametrize(
    ("definition", "title"),
    [
        ("def f(a, b): # why\n    'Text.'", "m.f(a, b)"),
        ("def f(a,  # first\n      b=(1, 2)):\n    'Text.'", "m.f(a, b=(1, 2))"),
        ("async def f(\n    a='x: y',\n):\n    'Text.'", "m.f(a='x: y')"),
        ("def f(): 'Text.'", "m.f()"),
        ("@decorate(1)\ndef f():\n    'Text.'", "m.f()"),
        ("class C(A, metaclass=M): 'Text.'", "class m.C(A, metaclass=M)"),
    ],
)
def test_a_title_is_one_line_whatever_the_layout(definition: str, title: str) -> None:
    assert extract(definition.encode(), "m") == [(title.removeprefix("class ").split("(")[0], f"{title}\n\nText.")]


def test_encodings_escapes_and_surrogates_are_understood() -> None:
    latin = '# -*- coding: latin-1 -*-\n"""Ärger."""\n'.encode("latin-1")
    assert extract(latin, "m") == [("m", "m\n\nÄrger.")]
    assert extract(rb'"""One \ud800 two \x00 three \w."""', "m") == [("m", "m\n\nOne  two  three \\w.")]


@pytest.mark.parametrize("source", [b"def broken(:\n", b"\x00", b"# coding: nonsense\n", b"'\xff'"])
def test_a_file_that_is_not_python_is_an_error_of_its_own(source: bytes, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_bytes(source)
    good.write_text('"""Fine."""')
    first, second = extract_files([SourceFile(str(bad), "bad"), SourceFile(str(good), "good")])
    assert first.error and not first.documents
    assert second.documents == (("good", "good\n\nFine."),)


def test_the_number_of_processes_does_not_show(tmp_path: Path) -> None:
    sources = []
    for index in range(250):
        path = tmp_path / f"m{index}.py"
        path.write_text(f'"""Module {index}, größer."""\n' if index % 7 else "broken(")
        sources.append(SourceFile(str(path), f"m{index}"))
    alone = list(extract_files(sources, processes=1))
    assert list(extract_files(sources, processes=3)) == alone
    assert [bool(extracted.error) for extracted in alone] == [index % 7 == 0 for index in range(250)]


def test_text_files_are_documents_and_rows_of_tables_are_documents(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / "deep" / "a.md").write_text("\ufeffTitle\r\n\r\nBody\n", encoding="utf-8")
    (data / "b.txt").write_text("Bee", encoding="utf-8")
    (data / "ignored.bin").write_bytes(b"\xff")
    (data / "c.jsonl").write_text('{"text": "one", "x": 1}\n\n{"text": "two"}\n', encoding="utf-8")
    pl.DataFrame({"text": ["first", "second"]}).write_parquet(data / "d.parquet")
    metrics = run(tmp_path / "out", files(data))
    assert rows_of(tmp_path / "out") == [
        ("notes/b.txt", "Bee", "notes"),
        ("notes/c.jsonl#0", "one", "notes"),
        ("notes/c.jsonl#2", "two", "notes"),
        ("notes/d.parquet#0", "first", "notes"),
        ("notes/d.parquet#1", "second", "notes"),
        ("notes/deep/a.md", "Title\n\nBody", "notes"),
    ]
    assert metrics == {"documents": 6, "bytes": 31, "rejects": 0}


def test_a_glob_names_documents_below_its_fixed_part(tmp_path: Path) -> None:
    for name in ("one/a.txt", "two/a.txt", "two/b.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    run(tmp_path / "out", files(tmp_path / "*" / "a.txt"))
    assert [row[0] for row in rows_of(tmp_path / "out")] == ["notes/one/a.txt", "notes/two/a.txt"]


def test_another_column_may_hold_the_text(tmp_path: Path) -> None:
    pl.DataFrame({"body": ["words"], "text": [1]}).write_parquet(tmp_path / "d.parquet")
    run(tmp_path / "out", files(tmp_path / "d.parquet", columns=Columns(text="body")))
    assert rows_of(tmp_path / "out") == [("notes/d.parquet#0", "words", "notes")]


def test_what_cannot_be_read_is_rejected_with_its_reason_and_the_rest_is_kept(tmp_path: Path) -> None:
    data = fresh(tmp_path / "data")
    (data / "a.jsonl").write_text('{"text": "good"}\n{"text": 3}\n{"no": ""}\nnot json\n{"text": "\\ud800"}\n')
    (data / "b.parquet").write_bytes(b"PAR1 but not really")
    (data / "c.txt").write_bytes(b"\xff\xfe\xfa")
    pl.DataFrame({"other": ["x"]}).write_parquet(data / "d.parquet")
    metrics = run(tmp_path / "out", files(data), reject_limit=1)
    assert (metrics["documents"], metrics["rejects"]) == (1, 7)
    rejects = pl.read_parquet(tmp_path / "out" / "rejects.parquet")
    assert rejects.schema == {"path": pl.String, "row": pl.Int64, "reason": pl.String}
    assert rejects.select("path", "row").rows() == [
        ("notes/a.jsonl", 1),
        ("notes/a.jsonl", 2),
        ("notes/a.jsonl", 3),
        ("notes/a.jsonl", 4),
        ("notes/b.parquet", None),
        ("notes/c.txt", None),
        ("notes/d.parquet", None),
    ]
    assert rejects["reason"][0] == "'text' holds no text but int"
    assert rejects["reason"][6] == "no column 'text' among other"
    assert str(tmp_path) not in "".join(rejects["reason"])


def test_too_many_rejects_fail_the_stage_and_name_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\noops\n')
    with pytest.raises(StageError, match=r"1 of 2 .* notes/a.jsonl row 1 .*raise `reject_limit` above 0.4"):
        run(tmp_path / "out", files(tmp_path / "a.jsonl"), reject_limit=0.4)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("absent.txt", r"'notes': there is no file .*absent.txt; correct its `paths`"),
        ("*.parquet", r"'notes': no file matches .*\*.parquet"),
        ("empty", r"'notes': no file in .*empty ends in one of .parquet"),
        ("data.bin", r"'notes': .*data.bin is not one of .parquet"),
    ],
)
def test_a_path_that_leads_nowhere_is_the_users_mistake(tmp_path: Path, path: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.bin").write_bytes(b"")
    with pytest.raises(UserError, match=sentence):
        take_inventory(IngestSettings(sources=(files(tmp_path / path),)))


def test_sources_and_files_that_would_share_a_name_are_the_users_mistake(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        fresh(tmp_path / folder).joinpath("a.txt").write_text("x")
    with pytest.raises(UserError, match="two sources with different `name`s"):
        take_inventory(IngestSettings(sources=(files(tmp_path / "one", tmp_path / "two"),)))
    with pytest.raises(ValidationError, match="two sources are called 'notes'; give each a `name` of its own"):
        IngestSettings(sources=(files(tmp_path / "one"), files(tmp_path / "two")))


def test_a_package_that_is_not_installed_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"'no_such_package' .* is not installed"):
        take_inventory(IngestSettings(sources=(PythonDocs(packages=("no_such_package",)),)))


def test_an_empty_corpus_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(UserError, match="The corpus is empty"):
        run(tmp_path / "out", files(tmp_path / "a.jsonl"))


def test_the_inventory_changes_with_a_file_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    settings = IngestSettings(sources=(files(path),))
    before = take_inventory(settings)
    assert take_inventory(settings) == before
    os.utime(path, ns=(0, 0))
    assert take_inventory(settings) != before


def test_a_file_that_changes_after_the_inventory_fails_the_stage(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    settings = IngestSettings(sources=(files(path),))
    inventory = take_inventory(settings)
    path.write_text("longer")
    with pytest.raises(StageError, match="changed while it was being read"):
        ingest(inventory, settings, fresh(tmp_path / "out"), StageLog(), batches_for(tmp_path))


def test_the_project_itself_is_not_in_its_inventory() -> None:
    versions = {unit.name: unit.mark for unit in take_inventory(IngestSettings()).stocks[0].units}
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "polars" in versions
    assert "nightschool" not in versions


def test_python_documentation_has_topics_docstrings_and_licences_and_is_the_same_twice(tmp_path: Path) -> None:
    metrics = run(tmp_path / "one", PythonDocs(packages=("jinja2",)))
    run(tmp_path / "two", PythonDocs(packages=("jinja2",)))
    assert Artifact.of("ingest", tmp_path / "one").digest == Artifact.of("ingest", tmp_path / "two").digest
    rows = rows_of(tmp_path / "one")
    sources = [source for _, _, source in rows]
    assert list(dict.fromkeys(sources)) == ["topics", "python", "jinja2", "licences"]
    texts = {doc_id: text for doc_id, text, _ in rows}
    assert len(texts) == len(rows) == metrics["documents"]
    assert texts["python/json.dumps"].startswith("json.dumps(obj, *, skipkeys=False")
    assert "render(self, *args: t.Any, **kwargs: t.Any) -> str" in texts["jinja2/jinja2.environment.Template"]
    assert "Redistribution" in texts[next(doc_id for doc_id in texts if doc_id.startswith("licences/Jinja2/"))]
    assert not any(doc_id.startswith(("python/test.", "python/idlelib.idle_test.")) for doc_id in texts)
