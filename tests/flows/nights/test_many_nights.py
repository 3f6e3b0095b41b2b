"""Ingest over nights and in batches: ids stay unique, only news is read, and no division of the work shows."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches, do_batch
from tasks.core.errors import StageError
from tasks.core.stage import StageCall, StageLog
from tasks.corpus.ingest import IngestSettings, ingest, take_inventory
from tasks.intake.inventory import Inventory, Stock, Unit
from tasks.intake.rows import Columns
from tasks.intake.sources import Files, PythonDocs
from tests.corpora import Row, fresh, rows_of


class Nights:
    """Runs ingest night after night, as a flow does."""

    def __init__(self, root: Path, settings: IngestSettings) -> None:
        self.root = root
        self.settings = settings
        self.read: list[Inventory] = []

    def night(self) -> list[Row]:
        inventory = take_inventory(self.settings).minus(self.read)
        if inventory.is_empty:
            return []
        number = len(self.read)
        self.read.append(inventory)
        out = fresh(self.root / f"night-{number}")
        wanted = self.settings.to_read(inventory)
        ingest(inventory, wanted, out, StageLog(), Batches(self.root / f"batches-{number}"))
        return rows_of(out)


def files(folder: Path, **options: Any) -> IngestSettings:
    return IngestSettings(sources=(Files(paths=(str(folder),), name="notes", **options),), reject_limit=1)


def test_a_night_reads_what_is_new_or_changed_and_ids_stay_unique(tmp_path: Path) -> None:
    data = fresh(tmp_path / "data")
    (data / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (data / "b.txt").write_text("bee")
    nights = Nights(tmp_path, files(data))
    assert [row[0] for row in nights.night()] == ["notes/a.jsonl#0", "notes/a.jsonl#1", "notes/b.txt"]
    assert nights.night() == []
    (data / "a.jsonl").write_text('{"text": "one"}\n{"text": "three"}\nbroken\n')
    (data / "b.txt").write_text("bees")
    (data / "c.txt").write_text("sea")
    assert nights.night() == [
        ("notes/a.jsonl@2#0", "one", "notes"),
        ("notes/a.jsonl@2#1", "three", "notes"),
        ("notes/b.txt@2", "bees", "notes"),
        ("notes/c.txt", "sea", "notes"),
    ]
    rejects = pl.read_parquet(tmp_path / "night-1" / "rejects.parquet")
    assert rejects.select("path", "row").rows() == [("notes/a.jsonl@2", 2)]


def test_a_later_night_may_be_without_documents(tmp_path: Path) -> None:
    data = fresh(tmp_path / "data")
    (data / "a.jsonl").write_text('{"text": "one"}\n')
    nights = Nights(tmp_path, files(data))
    nights.night()
    (data / "b.jsonl").write_text("\n")
    assert nights.night() == []
    assert [path.name for path in sorted((tmp_path / "night-1").iterdir())] == [
        "documents-00000.parquet",
        "rejects.parquet",
    ]


def test_another_source_or_path_does_not_change_how_old_nights_were_read(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fresh(tmp_path / name).joinpath("a.txt").write_text(name)
    before = files(tmp_path / "one")
    inventory = take_inventory(before)
    more = Files(paths=(str(tmp_path / "two"),), name="more")
    first = before.sources[0]
    assert isinstance(first, Files)
    wider = first.model_copy(update={"paths": (*first.paths, str(tmp_path / "elsewhere"))})
    after = before.model_copy(update={"sources": (more, wider)})
    assert after.to_read(inventory) == before.to_read(inventory)
    other = before.model_copy(update={"sources": (wider.model_copy(update={"content": "html"}),)})
    assert other.to_read(inventory) != before.to_read(inventory)


def test_columns_name_documents_and_their_sources(tmp_path: Path) -> None:
    data = fresh(tmp_path / "data")
    frame = pl.DataFrame({"body": ["a", "b", "c"], "url": [1, None, 3], "site": ["x.org", None, "y.org"]})
    frame.write_parquet(data / "a.parquet")
    frame.with_columns(pl.col("url") + 10).write_csv(data / "b.csv")
    frame.with_columns(pl.col("url") + 20).write_ndjson(data / "c.jsonl")
    (data / "d.txt").write_text("d")
    columns = Columns(text="body", id="url", source="site")
    assert Nights(tmp_path, files(data, columns=columns)).night() == [
        ("notes/1", "a", "x.org"),
        ("notes/a.parquet#1", "b", "notes"),
        ("notes/3", "c", "y.org"),
        ("notes/11", "a", "x.org"),
        ("notes/b.csv#1", "b", "notes"),
        ("notes/13", "c", "y.org"),
        ("notes/21", "a", "x.org"),
        ("notes/c.jsonl#1", "b", "notes"),
        ("notes/23", "c", "y.org"),
        ("notes/d.txt", "d", "notes"),
    ]


def test_an_id_that_comes_again_gets_a_number_and_on_another_night_that_nights(tmp_path: Path) -> None:
    data = fresh(tmp_path / "data")

    def write(name: str, *ids: str) -> None:
        pl.DataFrame({"text": [f"{name} {id}" for id in ids], "id": ids}).write_parquet(data / name)

    write("a.parquet", "x", "x", "x#2", "lib@2", "x")
    write("b.parquet", "y", "x", "x#2")
    nights = Nights(tmp_path, files(data, columns=Columns(id="id")))
    assert [row[0].removeprefix("notes/") for row in nights.night()] == [
        *("x", "x#3", "x#2", "lib@2@1", "x#4"),
        *("y", "x#5", "x#2#2"),
    ]
    write("c.parquet", "x", "lib", "x")
    assert [row[0].removeprefix("notes/") for row in nights.night()] == ["x@2", "lib@2", "x@2#2"]


@given(st.lists(st.lists(st.sampled_from(["a", "a#2", "a#2#2", "a@2", "b"]), max_size=6), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_given_ids_are_unique_over_all_nights(
    tmp_path_factory: pytest.TempPathFactory, given_ids: list[list[str]]
) -> None:
    root = tmp_path_factory.mktemp("ids")
    data = fresh(root / "data")
    nights = Nights(root, files(data, columns=Columns(id="id")))
    found: list[str] = []
    for number, ids in enumerate([["first"], *given_ids]):
        frame = pl.DataFrame({"text": ids, "id": ids}, schema={"text": pl.String, "id": pl.String})
        frame.write_parquet(data / f"{number}.parquet")
        found += [doc_id for doc_id, _, _ in nights.night()]
    assert len(set(found)) == len(found) == 1 + sum(map(len, given_ids))


def test_text_that_is_not_utf_8_is_refused_by_row(tmp_path: Path) -> None:
    data = fresh(tmp_path / "data")
    (data / "a.csv").write_bytes(b"id,text\nx,good\n\xff,bad id\ny,bad \xff\nz,good\n")
    (data / "b.jsonl").write_bytes(b'{"id": "v", "text": "bad \xff"}\n{"id": "w", "text": "good"}\n')
    rows = Nights(tmp_path, files(data, columns=Columns(id="id"))).night()
    assert [row[0] for row in rows] == ["notes/x", "notes/z", "notes/w"]
    assert pl.read_parquet(tmp_path / "night-0" / "rejects.parquet").rows() == [
        ("notes/a.csv", 2, "'text' is not UTF-8"),
        ("notes/a.csv", 1, "'id' is not UTF-8"),
        ("notes/b.jsonl", 0, "not JSON: 'utf-8' codec can't decode byte 0xff in position 25: invalid start byte"),
    ]


def backwards(folder: Path) -> Batches:
    """An engine whose one worker does the last batch first and the others when they are asked for."""

    class Late:
        def __init__(self, *work: Any) -> None:
            self.work = work

        def result(self) -> dict[str, Any]:
            return do_batch(*self.work)

    class Engine(Batches):
        def map(self, name: str, function: Any, items: Sequence[Any]) -> Any:
            if items:
                place = self.folder.absolute() / name
                place.mkdir(parents=True, exist_ok=True)
                do_batch(function, items[-1], place / f"{len(items) - 1:06d}")
            return super().map(name, function, items)

    return Engine(folder, Late)


def test_neither_the_division_nor_the_engine_nor_a_kill_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fresh(tmp_path / "data")
    texts = [f"document {n} " * (n % 5) for n in range(60)]
    pl.DataFrame({"text": texts}).write_parquet(data / "a.parquet", row_group_size=7)
    pl.DataFrame({"text": texts}).write_ndjson(data / "b.jsonl")
    for n in range(9):
        (data / f"c{n}.md").write_text(f"note {n}")
    wanted = files(data)
    whole = Nights(tmp_path / "whole", wanted)
    rows = whole.night()
    assert [row[0] for row in rows[58:62]] == [
        *("notes/a.parquet#58", "notes/a.parquet#59"),
        *("notes/b.jsonl#0", "notes/b.jsonl#1"),
    ]
    monkeypatch.setattr("tasks.intake.dividing.BATCH_BYTES", 300)
    monkeypatch.setattr("tasks.intake.dividing.LOOK_INSIDE", 0)
    inventory = whole.read[0]
    digests = set()
    for name, batches in (("one", Batches(tmp_path / "b1")), ("two", backwards(tmp_path / "b2"))):
        out = fresh(tmp_path / name)
        ingest(inventory, wanted, out, StageLog(), batches)
        assert len(list((batches.folder / "read").iterdir())) > 15
        assert rows_of(out) == rows
        digests.add(Artifact.of("ingest", out).digest)
    digests.add(Artifact.of("ingest", tmp_path / "whole" / "night-0").digest)
    assert len(digests) == 1


def test_a_distribution_that_was_upgraded_is_read_again_and_the_others_are_not(tmp_path: Path) -> None:
    wanted = IngestSettings(sources=(PythonDocs(packages=("jinja2", "yaml")),))
    now = take_inventory(wanted)
    units = now.stocks[0].units
    assert [unit.name for unit in units] == ["python", "Jinja2", "PyYAML"] or len(units) == 3
    old = tuple(unit.model_copy(update={"mark": "0"}) if unit.name.lower() == "jinja2" else unit for unit in units)
    news = now.minus([Inventory(stocks=(Stock(source="python-docs", units=old),))])
    assert [unit.name.lower() for unit in news.stocks[0].units] == ["jinja2"]
    out = fresh(tmp_path / "out")
    ingest(news, wanted, out, StageLog(), Batches(tmp_path / "batches"))
    rows = rows_of(out)
    assert {source for _, _, source in rows} == {"jinja2", "licences"}
    assert all(doc_id.endswith("@2") or "@2#" in doc_id for doc_id, _, _ in rows)
    with pytest.raises(StageError, match="no longer what is installed"):
        ingest(Inventory(stocks=(Stock(source="python-docs", units=old),)), wanted, out, StageLog(), Batches(tmp_path))


def test_a_file_that_is_gone_or_closed_to_us_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("here")
    state = os.stat(tmp_path / "a.txt")
    units = [
        Unit(name="notes/a.txt", path=str(tmp_path / "a.txt"), size=state.st_size, mark=str(state.st_mtime_ns)),
        Unit(name="notes/b.txt", path=str(tmp_path / "b.txt"), size=3, mark="1"),
    ]
    inventory = Inventory(stocks=(Stock(source="notes", units=tuple(units)),))
    out = fresh(tmp_path / "out")
    ingest(inventory, files(tmp_path), out, StageLog(), Batches(tmp_path / "batches"))
    assert pl.read_parquet(out / "rejects.parquet").rows() == [("notes/b.txt", None, "No such file or directory")]


def test_the_same_files_elsewhere_are_the_same_request(tmp_path: Path) -> None:
    keys = set()
    for name in ("one", "two"):
        data = fresh(tmp_path / name)
        (data / "a.jsonl").write_text('{"text": "one"}\n')
        os.utime(data / "a.jsonl", ns=(1, 1))
        settings = files(data)
        inventory = take_inventory(settings)
        arguments = {"inventory": inventory, "settings": settings.to_read(inventory)}
        request = StageCall(ingest, "ingest", arguments).request()
        assert str(tmp_path) not in request.model_dump_json()
        keys.add(request.key)
        assert str(data) in inventory.model_dump_json()  # whoever keeps what was read must find it again
    assert len(keys) == 1


def test_a_request_takes_the_readers_of_the_formats_that_it_reads(tmp_path: Path) -> None:
    data = fresh(tmp_path / "data")
    (data / "a.jsonl").write_text('{"text": "one"}\n')
    settings = files(data)
    code = StageCall(ingest, "ingest", {"inventory": take_inventory(settings), "settings": settings}).request().code
    assert "tasks.intake.jsonlines.read_jsonl" in code
    assert not {name for name in code if name.startswith(("tasks.intake.tables.", "tasks.intake.warc."))}
