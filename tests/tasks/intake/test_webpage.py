"""Web pages: the main text is kept, what surrounds it is not, and a page can cost no more than itself."""

import re
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.batches import Batches
from tasks.core.stage import StageLog
from tasks.corpus.ingest import IngestSettings, ingest, take_inventory
from tasks.intake.sources import Files
from tasks.intake.webpage import PAGES, Pages, main_text
from tests.corpora import Row, fresh, rows_of

PAGE = """<!doctype html><html><head><title>T</title><style>p {}</style><script>alert(1)</script></head><body>
<nav><a href="/">Home</a><a href="/about">About</a></nav>
<main><h1>Größe</h1><p>A paragraph with <b>bold</b> words, long enough to be no menu.</p>
<pre>for x in y:
    print(x)</pre>
<table><tr><td>one</td><td>two</td></tr></table><ul><li>first</li><li>second</li></ul></main>
<footer>Imprint</footer></body></html>"""
TEXT = """Größe

A paragraph with bold words, long enough to be no menu.

for x in y:
    print(x)
one\t\ttwo
  • first
  • second"""


def test_main_text_is_kept_with_its_code_tables_and_lists_and_what_surrounds_it_is_not() -> None:
    assert main_text(PAGE.encode(), None) == TEXT


@pytest.mark.parametrize(
    ("encoding", "charset", "meta"),
    [
        ("utf-8", None, ""),
        ("utf-8-sig", None, ""),
        ("utf-8", "utf-8", ""),
        ("latin-1", "iso-8859-1", ""),
        ("latin-1", None, '<meta charset="iso-8859-1">'),
        ("latin-1", "utf-8", '<meta charset="iso-8859-1">'),
        ("utf-8", "no-such-charset", ""),
        ("utf-16", "utf-16", ""),
    ],
)
def test_pages_are_read_in_their_encoding(encoding: str, charset: str | None, meta: str) -> None:
    assert main_text(PAGE.replace("<head>", f"<head>{meta}").encode(encoding), charset) == TEXT


def test_a_template_that_a_script_fills_in_counts_as_text() -> None:
    page = '<body><script id="t" type="text/x-handlebars-template"><p>Written here.</p></script><div id="c"></div>'
    assert main_text(page.encode(), None) == "Written here."


def test_a_page_that_kills_the_parser_is_the_only_one_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tasks.intake.webpage

    source = Path(tasks.intake.webpage.__file__).read_text()
    deadly = source.replace("-> str:\n", "-> str:\n    b'kill' in page and exit(1)\n", 1)
    child = tmp_path / "child.py"
    child.write_text(deadly)
    monkeypatch.setattr("tasks.intake.webpage.__file__", str(child))
    bodies = [b"<p>kill" if n == 5 else b"<p>page %d" % n for n in range(8)]
    with Pages() as pages:
        answer = pages.extract(pa.table({"page": bodies, "charset": [None] * 8}, schema=PAGES))
    assert answer["text"].to_pylist() == [None if n == 5 else f"page {n}" for n in range(8)]
    assert [error for error in answer["error"].to_pylist() if error] == ["the HTML parser crashed on this page"]


def read(folder: Path, data: Path, content: Literal["text", "html"]) -> list[Row]:
    settings = IngestSettings(sources=(Files(paths=(str(data),), name="web", content=content),))
    ingest(take_inventory(settings), settings, fresh(folder), StageLog(), Batches(folder.parent / "batches"))
    return rows_of(folder)


def test_files_and_columns_of_html_become_their_main_text(tmp_path: Path) -> None:
    data = fresh(tmp_path / "data")
    pl.DataFrame({"text": [PAGE, "<p>Short."]}).write_parquet(data / "a.parquet")
    (data / "b.html").write_bytes(PAGE.encode("latin-1"))
    (data / "c.htm").write_text("")
    expected = [("web/a.parquet#0", TEXT, "web"), ("web/a.parquet#1", "Short.", "web")]
    assert read(tmp_path / "out", data, "html") == [*expected, ("web/b.html", TEXT, "web"), ("web/c.htm", "", "web")]


def test_a_text_source_takes_html_files_for_what_they_are(tmp_path: Path) -> None:
    data = fresh(tmp_path / "data")
    (data / "a.html").write_text("<p>Page.")
    (data / "b.txt").write_text("<p>Text.")
    assert [row[1] for row in read(tmp_path / "out", data, "text")] == ["Page.", "<p>Text."]


def bare(text: str) -> str:
    """Without what an extractor adds between words."""
    return re.sub(r"[\s•]+", "", text)


def test_real_pages_keep_their_code_and_tables_and_lose_their_menus(shared_data: Path) -> None:
    html = pytest.importorskip("lxml.html")
    menu = "ancestor-or-self::nav or ancestor-or-self::*[contains(@class, 'Nav') or contains(@class, 'legal')]"
    paths = {"code": "//pre", "cell": f"//td[not(.//td)][not({menu})]", "menu": f"//li[not(.//li)][{menu}]"}
    kept = dict.fromkeys(paths, 0)
    total = dict.fromkeys(paths, 0)
    file = pq.ParquetFile(shared_data / "text" / "kafka_javadoc_html.parquet")
    old, new = (file.read_row_group(group, ["text"])["text"].to_pylist()[::40] for group in (0, 9))
    for page in old + new:
        text = main_text(page.encode(), None)
        whole, lines = bare(text), set(map(bare, text.splitlines()))
        tree = html.fromstring(page.encode())
        for name, path in paths.items():
            words = [bare(element.text_content()) for element in tree.xpath(path)]
            total[name] += sum(len(word) > 3 for word in words)
            # An entry of a menu is a word that may well be in the text, too: it is there where it is a line.
            kept[name] += sum(len(word) > 3 and word in (lines if name == "menu" else whole) for word in words)
    share = {name: kept[name] / total[name] for name in paths}
    assert share["code"] >= 0.99
    assert share["cell"] >= 0.99
    assert share["menu"] <= 0.1
