"""Filter: each rule at its threshold, one verdict a document, evidence that says what was measured."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.core.store import Artifact
from tasks.documents import document_files
from tasks.filter import FilterSettings, filter, judge, rules_of
from tests.corpora import corpus_of, fresh, rows_of, verdicts_of

OFF = FilterSettings.model_validate(
    {name: None if field.annotation is not bool else False for name, field in FilterSettings.model_fields.items()}
)
GOOD = "the house that we have seen stands with its door open to all of them " * 3 + "and more besides " * 5


def verdict(text: str, **settings: float | bool) -> tuple[str, str, str]:
    """(verdict, reason, evidence) on one text under the given rules alone."""
    batch = pl.DataFrame({"doc_id": ["d"], "text": [text], "source": ["s"]})
    row = judge(batch, rules_of(OFF.model_copy(update=settings))).row(0, named=True)
    return row["verdict"], row["reason"], row["evidence"]


@pytest.mark.parametrize(
    ("rule", "limit", "passes", "fails", "reason", "evidence"),
    [
        ("min_words", 3, "a b\tc", "a b", "too few words", "2 words, at least 3"),
        ("max_words", 2, "a b", "a\nb c", "too many words", "3 words, at most 2"),
        ("min_mean_word_length", 2, "ab a abc", "ab ab a", "words too short", "1.667 characters a word, at least 2"),
        ("max_mean_word_length", 2, "äö éñ", "äö éñx", "words too long", "2.5 characters a word, at most 2"),
        ("max_hashes_per_word", 0.5, "#a b", "## a", "too many hash signs", "1 a word, at most 0.5"),
        ("max_ellipses_per_word", 0.5, "a… b", "a… b...", "too many ellipses", "1 a word, at most 0.5"),
        ("max_bullet_lines", 0.5, "- a\n\nb", "- a\n  • b\nc", "too many bullet lines", "0.667 of lines, at most 0.5"),
        ("max_ellipsis_lines", 0.5, "a...\nb", "a... \nb…\nc", "too many cut lines", "0.667 of lines, at most 0.5"),
        ("min_alphabetic_words", 0.5, "1x 2", "x 2 3 -", "too few real words", "0.25 of words, at least 0.5"),
        ("min_stop_words", 2, "The way of it", "the the other", "too few stop words", "1 stop words, at least 2"),
        ("max_duplicate_lines", 0.5, "a\n\n a \nb\nb", "a\na\na\nb", "repeated lines", "0.5 of lines, at most 0.4"),
        ("drop_lorem_ipsum", True, "lorem", "x Lorem ipsum", "lorem ipsum", "1 times, at most 0"),
        ("drop_curly_brackets", True, "()", "{}", "curly bracket", "1 curly brackets, at most 0"),
    ],
)
def test_a_rule_breaks_past_its_threshold_and_says_what_it_measured(
    rule: str, limit: float, passes: str, fails: str, reason: str, evidence: str
) -> None:
    assert verdict(passes, **{rule: limit})[:2] == ("kept", "passed")
    beyond = 0.4 if rule == "max_duplicate_lines" else limit
    assert verdict(fails, **{rule: beyond}) == ("dropped", reason, evidence)


def test_the_first_broken_rule_gives_the_reason() -> None:
    assert verdict("# # #", min_words=9, max_hashes_per_word=0.1)[1] == "too few words"
    assert verdict("# # #", max_hashes_per_word=0.1, min_stop_words=2)[1] == "too many hash signs"


@given(st.text(max_size=60))
def test_any_text_has_one_verdict(text: str) -> None:
    batch = pl.DataFrame({"doc_id": ["d"], "text": [text], "source": ["s"]})
    verdicts = judge(batch, rules_of(FilterSettings(min_words=0)))
    assert verdicts.height == 1
    assert verdicts.null_count().sum_horizontal().item() == 0


def test_what_is_kept_stays_in_order_and_every_document_has_a_verdict(tmp_path: Path) -> None:
    rows = [(f"d{index}", GOOD if index % 3 else "short", "s") for index in range(40)]
    documents = corpus_of(tmp_path / "in", rows)
    metrics = filter(documents, FilterSettings(), fresh(tmp_path / "out"), StageLog())
    assert rows_of(tmp_path / "out") == [row for row in rows if row[1] == GOOD]
    verdicts = verdicts_of(tmp_path / "out")
    assert verdicts.columns == ["doc_id", "stage", "verdict", "reason", "evidence"]
    assert verdicts["doc_id"].to_list() == [row[0] for row in rows]
    assert verdicts.row(0) == ("d0", "filter", "dropped", "too few words", "1 words, at least 50")
    assert verdicts.row(1) == ("d1", "filter", "kept", "passed", "60 words")
    assert (metrics["documents"], metrics["kept"], metrics["dropped_too_few_words"]) == (40, 26, 14)
    assert len(document_files(Artifact.of("filter", tmp_path / "out"))) == len(document_files(documents)) > 1


def test_the_number_of_threads_does_not_show(tmp_path: Path) -> None:
    words = GOOD.split()
    rows = [(f"d{i * 7919:060}", " ".join(words[i % 7 : i % 7 + i % 11]), "s") for i in range(50_000)]
    documents = corpus_of(tmp_path / "in", rows, batch_bytes=10**9)  # enough for polars to divide among its threads
    script = (
        "import sys; from pathlib import Path; from tasks.core.stage import StageLog; "
        "from tasks.core.store import Artifact; from tasks.filter import FilterSettings, filter; "
        "filter(Artifact.of('x', Path(sys.argv[1])), FilterSettings(min_words=4), Path(sys.argv[2]), StageLog())"
    )
    for threads in ("1", "3"):
        command = [sys.executable, "-c", script, str(documents.path), str(fresh(tmp_path / threads))]
        subprocess.run(command, check=True, env={**os.environ, "POLARS_MAX_THREADS": threads})
    assert Artifact.of("filter", tmp_path / "1").digest == Artifact.of("filter", tmp_path / "3").digest


def test_a_filter_that_drops_everything_is_the_users_mistake(tmp_path: Path) -> None:
    documents = corpus_of(tmp_path / "in", [("a", "one two", "s"), ("b", "three", "s")])
    with pytest.raises(UserError, match=r"2 of 2 are dropped for 'too few words'; relax"):
        filter(documents, FilterSettings(), fresh(tmp_path / "out"), StageLog())
