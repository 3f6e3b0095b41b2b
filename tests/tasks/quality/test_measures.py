"""The kernels against the slow reference: every measure of every text, every verdict, every edited text."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.filter import FilterSettings, judge
from tasks.quality.measures import measure
from tasks.quality.rules import C4, FineWeb
from tests.tasks.quality.quality_reference import judged, measures_of

WEB = FilterSettings(c4=C4(), fineweb=FineWeb(), mask=None)
SETS = [
    WEB,
    FilterSettings(c4=C4(), gopher_repetition=None, mask=None),
    FilterSettings(fineweb=FineWeb(), gopher_quality=None, mask=None),
    FilterSettings(c4=C4(min_line_words=None, end_punctuation=False, cut_citations=False), mask=None),
]
# fmt: off
PIECES = [
    "a", "b", "the", "of", "and", "be...", "word's", "“be”", "state-of-the-art", "日本語。", "中", "한국", "é",
    "e\u0301", "\U0001d518\U0001d52b", "😀", "…", "...", ".", "..", "!", "?", "\uff1f", ".”", "」", ")", "[1]", "[]",
    "[edit]", "[Citation Needed]", "[x]", "[", "]", "{}", "#", "-", "•", "*", "‣", "lorem ipsum", "Lorem", "JavaScript",
    "\x00", "\x1f", "\u017f", "\u212a", "privacy policy", "use of cookies", "use Cookies", "x" * 1001, "é" * 1001,
]
# fmt: on
SPACES = ["", " ", "  ", "\n", "\n\n", "\n \n", "\r", "\r\n", "\t", "\xa0", "\u2028", "\u3000", "\x85", "\v", "\x1c"]
nasty = st.lists(st.sampled_from([*PIECES, *SPACES]), max_size=40).map("".join)
anything = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=50)  # not yet assigned: none to Python


def measured(texts: list[str], settings: FilterSettings) -> list[dict[str, int]]:
    column = pa.array(texts, pa.large_string())
    return measure(column, settings.gopher_repetition, settings.c4, settings.fineweb)[0].to_dicts()


def judgements(texts: list[str], settings: FilterSettings) -> list[tuple[str, str]]:
    rows = pl.DataFrame(
        {"doc_id": [""] * len(texts), "text": texts, "source": [""] * len(texts)}, schema_overrides={"text": pl.String}
    )
    verdicts, left = judge(rows, settings)
    return list(zip(verdicts["reason"], left, strict=True))


@pytest.mark.parametrize("settings", SETS)
@given(st.lists(nasty | anything, max_size=4))
def test_every_measure_equals_the_reference(settings: FilterSettings, texts: list[str]) -> None:
    assert measured(texts, settings) == [measures_of(text, settings) for text in texts]


@pytest.mark.parametrize("settings", [SETS[0], SETS[-1]])
@given(st.lists(nasty | anything, min_size=1, max_size=4))
def test_every_verdict_and_edited_text_equals_the_reference(settings: FilterSettings, texts: list[str]) -> None:
    assert judgements(texts, settings) == [judged(text, settings) for text in texts]


@given(st.text("ab \n", max_size=300))
def test_repetition_equals_the_reference(text: str) -> None:
    assert measured([text], WEB) == [measures_of(text, WEB)]


REAL = {
    "text/peps.parquet": 15,
    "text/tldr.parquet": 150,
    "text/fastapi_docs_multilang.parquet": 40,
    "text/hf_course_multilang.parquet": 40,
    "text/classic_books.parquet": 15,
    "classify/imdb_train.parquet": 150,
    "text/kafka_docs_html.parquet": 15,
}


@pytest.mark.parametrize("name", REAL)
def test_real_texts_are_judged_as_by_the_reference(name: str, shared_data: Path) -> None:
    column = pl.read_parquet(shared_data / name, columns=["text"])["text"]
    texts = column.gather_every(len(column) // REAL[name]).str.slice(0, 10_000).to_list()
    for settings in (WEB, FilterSettings(mask=None)):
        assert measured(texts, settings) == [measures_of(text, settings) for text in texts]
        assert judgements(texts, settings) == [judged(text, settings) for text in texts]
