"""Filter: each rule at its threshold, one verdict a document, evidence that says what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.documents import document_files
from tasks.corpus.filter import FilterSettings, filter, judge, require_documents
from tasks.quality.private import Mask
from tests.corpora import corpus_of, fresh, rows_of, verdicts_of

SETS = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
GOOD = (
    "The house that we have seen stands with its door open to all of us, who never asked whose it had been before. "
    "Somebody must once have planned each window, although nobody remembers when; rain comes in, birds go out. "
    "A visitor might think it empty until evening, yet lamps are lit then and music drifts across the fields."
)


def only(name: str, **limits: Any) -> FilterSettings:
    """One rule set, and of it the given rules alone."""
    model = FilterSettings.model_fields[name].annotation.__args__[0]  # type: ignore[union-attr]
    off = {key: False if field.annotation is bool else None for key, field in model.model_fields.items()}
    off.pop("short_line", None)
    return FilterSettings.model_validate(dict.fromkeys((*SETS, "mask")) | {name: off | limits})


def verdict(text: str, settings: FilterSettings) -> tuple[str, str, str]:
    """(verdict, reason, evidence) on one text."""
    row = judge(pl.DataFrame({"doc_id": ["d"], "text": [text], "source": ["s"]}), settings)[0].row(0, named=True)
    return row["verdict"], row["reason"], row["evidence"]


def run(documents: Artifact, settings: FilterSettings, folder: Path) -> Metrics:
    """The stage, into `folder`/out."""
    return filter(documents, settings, fresh(folder / "out"), StageLog(), Batches(folder / "batches"))


TEN = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize(
    ("rules", "rule", "limit", "passes", "fails", "reason", "evidence"),
    [
        ("gopher_quality", "min_words", 3, "a b\tc", "a b", "too few words", "2 words, at least 3"),
        ("gopher_quality", "max_words", 2, "a b", "a\nb c", "too many words", "3 words, at most 2"),
        (
            "gopher_quality",
            "min_mean_word_length",
            2,
            "ab a abc",
            "ab ab a",
            "words too short",
            "1.667 characters a word, at least 2",
        ),
        (
            "gopher_quality",
            "max_mean_word_length",
            2,
            "äö éñ",
            "äö éñx",
            "words too long",
            "2.5 characters a word, at most 2",
        ),
        ("gopher_quality", "max_hashes_per_word", 0.5, "#a b", "## a", "too many hash signs", "1 a word, at most 0.5"),
        (
            "gopher_quality",
            "max_ellipses_per_word",
            0.5,
            "a… b",
            "a… b...",
            "too many ellipses",
            "1 a word, at most 0.5",
        ),
        (
            "gopher_quality",
            "max_bullet_lines",
            0.5,
            "- a\n\nb",
            "- a\n  • b\nc",
            "too many bullet lines",
            "0.667 of lines, at most 0.5",
        ),
        (
            "gopher_quality",
            "max_ellipsis_lines",
            0.5,
            "a...\nb",
            "a... \nb…\nc",
            "too many cut lines",
            "0.667 of lines, at most 0.5",
        ),
        (
            "gopher_quality",
            "min_alphabetic_words",
            0.5,
            "1x 2",
            "x 2 3 -",
            "too few real words",
            "0.25 of words, at least 0.5",
        ),
        (
            "gopher_quality",
            "min_stop_words",
            2,
            "The way of it",
            "the the other",
            "too few stop words",
            "1 stop words, at least 2",
        ),
        (
            "gopher_repetition",
            "max_repeated_lines",
            0.4,
            "a\nb\n\n a",
            "a\na\nb",
            "repeated lines",
            "0.333 of lines, at most 0.3",
        ),
        (
            "gopher_repetition",
            "max_repeated_paragraphs",
            0.4,
            "a\n\nb\n \na",
            "a\n\na",
            "repeated paragraphs",
            "0.5 of paragraphs, at most 0.4",
        ),
        (
            "gopher_repetition",
            "max_repeated_line_text",
            0.3,
            "abcd\na\na",
            "ab\nab",
            "text in repeated lines",
            "0.4 of characters, at most 0.3",
        ),
        (
            "gopher_repetition",
            "max_repeated_paragraph_text",
            0.3,
            "ab\nab",
            "ab\n\nab",
            "text in repeated paragraphs",
            "0.333 of characters, at most 0.3",
        ),
        (
            "gopher_repetition",
            "max_top_2_gram",
            0.5,
            TEN,
            "a b c a b",
            "frequent 2-gram",
            "0.667 of characters, at most 0.5",
        ),
        (
            "gopher_repetition",
            "max_top_3_gram",
            0.5,
            "a b c a b",
            "a b c d a b c",
            "frequent 3-gram",
            "0.769 of characters, at most 0.5",
        ),
        (
            "gopher_repetition",
            "max_duplicate_5_grams",
            0.1,
            TEN,
            "a b c d e f a b c d e",
            "duplicate 5-grams",
            "0.238 of characters, at most 0.1",
        ),
        (
            "gopher_repetition",
            "max_duplicate_10_grams",
            0.2,
            TEN,
            f"{TEN} {TEN}",
            "duplicate 10-grams",
            "0.402 of characters, at most 0.2",
        ),
        ("c4", "drop_lorem_ipsum", True, "lorem", "x Lorem ipsum", "lorem ipsum", "1 lines, at most 0"),
        ("c4", "drop_curly_brackets", True, "()", "a {}\nb\n{", "curly bracket", "2 lines, at most 0"),
        ("c4", "min_sentences", 3, "A b! C d? E", "One. “Two.” ...", "too few sentences", "2 sentences, at least 3"),
        ("c4", "end_punctuation", True, 'He said "no"', "no\nno...", "no line left", "0 lines, at least 1"),
        ("c4", "min_line_words", 3, "a b c", "a b\nc", "no line left", "0 lines, at least 1"),
        ("c4", "max_word_length", 3, "abc", "é é abcd", "no line left", "0 lines, at least 1"),
        ("c4", "remove_javascript", True, "java", "Enable JAVAScript", "no line left", "0 lines, at least 1"),
        ("c4", "remove_policies", True, "policy", "Our Privacy Policy", "no line left", "0 lines, at least 1"),
        (
            "fineweb",
            "min_punctuated_lines",
            0.5,
            "a. \n\nb",
            "a\nb",
            "unpunctuated lines",
            "0 of lines end in punctuation, at least 0.5",
        ),
        ("fineweb", "max_short_lines", 0.5, "a" * 31, "a" * 30, "short lines", "1 of lines, at most 0.5"),
        (
            "fineweb",
            "max_repeated_line_text",
            0.4,
            "ab\na\na",
            "ab\n ab",
            "repeated text",
            "0.5 of characters, at most 0.4",
        ),
        (
            "fineweb",
            "max_newlines_per_word",
            0.5,
            "a b\nc",
            "a\n\nb",
            "list of lines",
            "1 line feeds a word, at most 0.5",
        ),
    ],
)
def test_a_rule_breaks_past_its_threshold_and_says_what_it_measured(
    rules: str, rule: str, limit: float, passes: str, fails: str, reason: str, evidence: str
) -> None:
    assert verdict(passes, only(rules, **{rule: limit}))[:2] == ("kept", "passed")
    if "at most 0.3" in evidence:
        limit = 0.3
    assert verdict(fails, only(rules, **{rule: limit})) == ("dropped", reason, evidence)


def test_a_text_of_nothing_has_no_shares_to_break_a_rule_with() -> None:
    settings = FilterSettings.model_validate({"gopher_quality": {"min_words": 0, "min_stop_words": 0}, "fineweb": {}})
    assert [verdict(text, settings) for text in ("", "\n \n")] == [("kept", "passed", "0 words")] * 2


def test_c4_edits_the_text() -> None:
    text = "A title\n\n  It has a point.[12] \nNo end here\nRead [citation needed]on. [1]\nSee our terms of use."
    batch = pl.DataFrame({"doc_id": ["d"], "text": [text], "source": ["s"]})
    settings = only("c4", cut_citations=True, end_punctuation=True, remove_policies=True)
    assert judge(batch, settings)[1].to_list() == ["It has a point.\nRead on."]


def test_fineweb_judges_what_c4_leaves() -> None:
    text = "An entry\n" * 9 + "The one sentence of all that is here ends in a point."
    rules: dict[str, Any] = {"fineweb": {}, "gopher_quality": None, "gopher_repetition": None}
    assert verdict(text, FilterSettings.model_validate(rules))[1] == "unpunctuated lines"
    assert verdict(text, FilterSettings.model_validate({**rules, "c4": {"min_sentences": 1}}))[1] == "passed"


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(ValidationError, match=r"gopher_quality.min_word\b"):
        FilterSettings.model_validate({"gopher_quality": {"min_word": 3}})


def test_the_first_broken_rule_gives_the_reason() -> None:
    assert verdict("# # #", only("gopher_quality", min_words=9, max_hashes_per_word=0.1))[1] == "too few words"
    assert (
        verdict("# # #", only("gopher_quality", max_hashes_per_word=0.1, min_stop_words=2))[1] == "too many hash signs"
    )
    assert verdict("a", FilterSettings.model_validate({"c4": {}, "fineweb": {}}))[1] == "too few words"


@given(st.lists(st.text(max_size=60), min_size=1, max_size=3))
def test_any_text_has_one_verdict(texts: list[str]) -> None:
    batch = pl.DataFrame({"doc_id": texts, "text": texts, "source": texts})
    verdicts, left = judge(batch, FilterSettings.model_validate({"c4": {}, "fineweb": {}}))
    assert verdicts["doc_id"].to_list() == texts
    assert verdicts.null_count().sum_horizontal().item() == left.null_count() == 0


def test_what_is_kept_stays_in_order_and_every_document_has_a_verdict(tmp_path: Path) -> None:
    rows = [(f"d{index}", GOOD if index % 3 else "short", "s") for index in range(40)]
    documents = corpus_of(tmp_path / "in", rows)
    metrics = run(documents, FilterSettings(), tmp_path)
    assert rows_of(tmp_path / "out") == [row for row in rows if row[1] == GOOD]
    verdicts = verdicts_of(tmp_path / "out")
    assert verdicts.columns == ["doc_id", "stage", "verdict", "reason", "evidence"]
    assert verdicts["doc_id"].to_list() == [row[0] for row in rows]
    assert verdicts.row(0) == ("d0", "filter", "dropped", "too few words", "1 words, at least 50")
    assert verdicts.row(1) == ("d1", "filter", "kept", "passed", "59 words")
    assert (metrics["documents"], metrics["kept"], metrics["dropped_too_few_words"]) == (40, 26, 14)
    assert metrics["kept_bytes"] == 26 * len(GOOD)
    assert metrics["dropped_too_few_stop_words"] == metrics["masked_emails"] == 0
    names = [path.name for path in document_files(documents)]
    assert len(names) > 1
    expected = [*names, *(name.replace("documents", "verdicts") for name in names)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected


def test_what_is_kept_is_masked_and_counted(tmp_path: Path) -> None:
    rows = [("a", f"{GOOD} Ask ann@site.net at 91.198.174.192.", "s"), ("b", "bob@site.net", "s")]
    metrics = run(corpus_of(tmp_path / "in", rows), FilterSettings(), tmp_path)
    assert rows_of(tmp_path / "out")[0][1] == f"{GOOD} Ask email@example.com at 192.0.2.1."
    assert (metrics["masked_emails"], metrics["masked_ip_addresses"], metrics["kept"]) == (1, 1, 1)
    metrics = run(corpus_of(tmp_path / "in2", rows), FilterSettings(mask=Mask(emails=False)), tmp_path / "2")
    assert "ann@site.net" in rows_of(tmp_path / "2" / "out")[0][1]
    assert "masked_emails" not in metrics


def test_the_number_of_threads_does_not_show(tmp_path: Path) -> None:
    words = GOOD.split()
    rows = [(f"d{i * 7919:060}", " ".join(words[i % 7 : i % 7 + i % 11]), "s") for i in range(20_000)]
    documents = corpus_of(tmp_path / "in", rows, batch_bytes=10**9)  # enough for polars to divide among its threads
    script = (
        "import sys; from pathlib import Path; from tasks.core.batches import Batches; "
        "from tasks.core.stage import StageLog; from tasks.core.store import Artifact; "
        "from tasks.corpus.filter import FilterSettings, filter; "
        "settings = FilterSettings.model_validate({'gopher_quality': {'min_words': 4}, 'gopher_repetition': None}); "
        "out = Path(sys.argv[2]); "
        "filter(Artifact.of('x', Path(sys.argv[1])), settings, out, StageLog(), Batches(out.with_suffix('.work')))"
    )
    for threads in ("1", "3"):
        command = [sys.executable, "-c", script, str(documents.path), str(fresh(tmp_path / threads))]
        subprocess.run(command, check=True, env={**os.environ, "POLARS_MAX_THREADS": threads})
    assert Artifact.of("filter", tmp_path / "1").digest == Artifact.of("filter", tmp_path / "3").digest


def test_a_filter_that_drops_everything_is_the_users_mistake(tmp_path: Path) -> None:
    documents = corpus_of(tmp_path / "in", [("a", "one two", "s"), ("b", "three", "s")])
    counts = run(documents, FilterSettings(), tmp_path)
    assert counts["kept"] == 0
    (tmp_path / "out" / "metrics.json").write_text(json.dumps(counts))
    with pytest.raises(UserError, match=r"2 of 2 are dropped for 'too few words'; relax"):
        require_documents(Artifact.of("filter", tmp_path / "out"))


def test_a_night_without_documents_is_no_error(tmp_path: Path) -> None:
    metrics = run(corpus_of(tmp_path / "in", []), FilterSettings(), tmp_path)
    assert (metrics["documents"], metrics["kept"], metrics["dropped_too_few_words"]) == (0, 0, 0)
    assert list((tmp_path / "out").iterdir()) == []


def test_no_two_rules_give_the_same_reason() -> None:
    settings = FilterSettings.model_validate({"language": {"allowed": ["en"]}, "c4": {}, "fineweb": {}})
    reasons = [rule.reason for rule in settings.rules()]
    assert len(reasons) == len(set(reasons)) == 1 + 10 + 13 + 4 + 4
