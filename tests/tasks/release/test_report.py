"""The report: says what the artifacts say, quotes safely, and is the same file for the same night."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from tasks.core.artifact import Artifact
from tasks.core.stage import StageLog
from tasks.release.report import ReportSettings, bars_of, find_examples, report
from tests.night import Made, make_night

SETTINGS = ReportSettings(title="quickstart")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_night(tmp_path_factory.mktemp("home"))


def write(made: Made, out: Path, settings: ReportSettings = SETTINGS) -> tuple[str, str]:
    out.mkdir(exist_ok=True)
    report(made.of_text(), settings, out, StageLog())
    assert {path.name for path in out.iterdir()} == {"report.html", "lineage.html"}
    return (out / "report.html").read_text(), (out / "lineage.html").read_text()


class Text(HTMLParser):
    """What a page says, without its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_says_the_figures_of_the_stages(made: Made, tmp_path: Path) -> None:
    page = Text(write(made, tmp_path / "out")[0]).text
    assert "documents kept 102 of 120 taken in" in page
    assert "tokens to learn from 9.88 M and 512,345 held out" in page
    assert "bits per byte 1.934 4.021 before training" in page
    assert "accuracy, pre-trained 83.1% from scratch 64.2%, TF-IDF + logistic regression 75.2%" in page
    assert "too few words 9 7.5% repeated lines 4 3.3%" in page
    assert "The return value is a list of the names in the current <module>, sorted & unique." in page


def test_the_same_night_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    again = make_night(tmp_path / "another-home")
    assert write(made, tmp_path / "a") == write(again, tmp_path / "b")


def test_both_pages_need_nothing_from_elsewhere(made: Made, tmp_path: Path) -> None:
    for page in write(made, tmp_path / "out"):
        for tag, attributes in Text(page).tags:
            assert tag not in ("link", "img", "iframe", "base")
            assert not {"src", "srcset", "action"} & set(attributes)
        assert not re.search(r"https?://|url\((?!#)|@import", page)
        assert str(made.store.home) not in page


def test_text_from_documents_cannot_become_markup(made: Made, tmp_path: Path) -> None:
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    home = tmp_path / "home"
    night = make_night(home)
    table = pl.read_parquet(night.artifacts["ingest"].path / "documents-00000.parquet")
    changed = tmp_path / "ingest"
    changed.mkdir()
    table.with_columns(text=pl.lit(evil)).write_parquet(changed / "documents-00000.parquet")
    (changed / "metrics.json").write_bytes((night.artifacts["ingest"].path / "metrics.json").read_bytes())
    night.artifacts["ingest"] = Artifact.of("ingest", changed)
    report_page, lineage_page = write(night, tmp_path / "out", ReportSettings(title=f"</title>{evil}"))
    assert "&lt;script&gt;alert(" in report_page
    for page in (report_page, lineage_page):
        tags = [tag for tag, _ in Text(page).tags]
        assert "img" not in tags
        assert "<script>alert" not in page


def test_every_document_has_exactly_one_fate(made: Made) -> None:
    bars = bars_of(made.artifacts["ingest"], [made.artifacts["filter"], made.artifacts["deduplicate"]])
    taken, *dropped, kept = bars
    assert (taken.count, kept.count) == (120, 102)
    assert taken.count == kept.count + sum(bar.count for bar in dropped)
    assert [(bar.name, bar.count, bar.stage) for bar in dropped] == [
        ("too few words", 9, "dropped by filter"),
        ("repeated lines", 4, ""),
        ("exact duplicate", 3, "dropped by deduplicate"),
        ("near-duplicate", 2, ""),
    ]


def test_a_duplicate_is_quoted_beside_what_was_kept_instead(made: Made) -> None:
    settings = ReportSettings(title="t", examples=2, excerpt=20)
    found = find_examples(made.artifacts["deduplicate"], made.artifacts["filter"], settings)
    assert [example.reason for example in found] == ["exact duplicate"] * 2 + ["near-duplicate"] * 2
    dropped, kept = found[0].texts
    assert (dropped["role"], kept["role"]) == ("dropped", "kept instead")
    assert found[0].evidence == f"same words as {kept['doc_id']}"
    assert 0 < len(kept["excerpt"]) <= 22


def test_no_examples_are_quoted_if_none_are_wanted(made: Made, tmp_path: Path) -> None:
    page, _ = write(made, tmp_path / "out", ReportSettings(title="t", examples=0))
    assert "by example" not in page


def test_a_night_without_fine_tuning_has_no_such_section(made: Made, tmp_path: Path) -> None:
    tmp_path.joinpath("out").mkdir()
    untuned = replace(made.of_text(), finetuned=None, scratch=None, baseline=None)
    report(untuned, SETTINGS, tmp_path / "out", StageLog())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Fine-tuning" not in page
    assert "Bits per byte" in page


def test_the_lineage_page_shows_every_ancestor_and_every_edge(made: Made, tmp_path: Path) -> None:
    _, page = write(made, tmp_path / "out")
    tags = Text(page).tags
    boxes = {attributes["id"] for tag, attributes in tags if attributes.get("class") == "node"}
    assert boxes == {f"{artifact.stage}-{artifact.digest}" for artifact in made.artifacts.values()}
    edges = {(a["data-from"], a["data-to"]) for tag, a in tags if a.get("class") == "edge"}
    assert edges == {
        (f"{given.stage}-{given.digest}", f"{artifact.stage}-{artifact.digest}")
        for artifact in made.artifacts.values()
        for _, given in artifact.manifest.references()
    }
    assert "start: scratch" in page


def test_the_page_templates_are_part_of_the_key() -> None:
    pages = {name for name in report.fingerprint().code if name.endswith(".html")}
    assert pages == {"templates/lineage.html", "templates/page.html", "templates/report.html"}
