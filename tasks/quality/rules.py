"""The published quality rules as thresholds over the measures of a text: one settings model a rule set.

| set | from | meant for |
|---|---|---|
| `GopherQuality` | Rae et al. 2021 (arXiv 2112.11446), appendix A1.1 | English prose: stop words, lengths of words |
| `GopherRepetition` | the same, table A1 | any text |
| `C4` | Raffel et al. 2020 (arXiv 1910.10683), section 2.2 | web pages; removes lines, and all code |
| `FineWeb` | Penedo et al. 2024 (arXiv 2406.17557), section 3.6; datatrove's code | web pages, after Gopher |

What a word, line, paragraph and sentence is says scan.py. A share is a comparison of two counts; where the whole
is nothing (no words, no lines), there is no share and no rule on it is broken.
"""

from dataclasses import dataclass
from typing import Self

import polars as pl
from pydantic import Field, model_validator

from models.settings import Settings

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)


class GopherQuality(Settings):
    """Limits on words, symbols and lines; None turns a rule off."""

    min_words: int | None = Field(default=50, ge=0, le=1_000_000_000)
    """Fewest words of a document."""
    max_words: int | None = Field(default=100_000, ge=1, le=1_000_000_000)
    """Most words of a document."""
    min_mean_word_length: float | None = Field(default=3.0, ge=0, le=1_000_000_000)
    """Smallest mean number of characters in a word."""
    max_mean_word_length: float | None = Field(default=10.0, ge=0, le=1_000_000_000)
    """Largest mean number of characters in a word."""
    max_hashes_per_word: float | None = Field(default=0.1, ge=0, le=1_000_000_000)
    """Most hash signs, relative to words."""
    max_ellipses_per_word: float | None = Field(default=0.1, ge=0, le=1_000_000_000)
    """Most ellipses, relative to words."""
    max_bullet_lines: float | None = Field(default=0.9, ge=0, le=1)
    """Largest share of lines that start with a bullet point."""
    max_ellipsis_lines: float | None = Field(default=0.3, ge=0, le=1)
    """Largest share of lines that end in an ellipsis."""
    min_alphabetic_words: float | None = Field(default=0.8, ge=0, le=1)
    """Smallest share of words with at least one letter."""
    min_stop_words: int | None = Field(default=2, ge=0, le=8)
    """How many different ones of the, be, to, of, and, that, have, with must occur."""

    @model_validator(mode="after")
    def _least_below_most(self) -> Self:
        for least, most in (("min_words", "max_words"), ("min_mean_word_length", "max_mean_word_length")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise ValueError(f"{least} ({low:g}) is over {most} ({high:g}), so no document passes: change one")
        return self


class GopherRepetition(Settings):
    """Largest shares of a text that repeat it; None turns a rule off.

    An n-gram is n words in sequence. One that occurs once repeats nothing, however long it is: datatrove counts it.
    """

    max_repeated_lines: float | None = Field(default=0.3, ge=0, le=1)
    """Lines that repeat an earlier line, of all lines."""
    max_repeated_paragraphs: float | None = Field(default=0.3, ge=0, le=1)
    """Paragraphs that repeat an earlier one, of all paragraphs."""
    max_repeated_line_text: float | None = Field(default=0.2, ge=0, le=1)
    """Characters in such lines, of all characters."""
    max_repeated_paragraph_text: float | None = Field(default=0.2, ge=0, le=1)
    """Characters in such paragraphs, of all characters."""
    max_top_2_gram: float | None = Field(default=0.20, ge=0, le=1)
    """Characters in occurrences of the most frequent 2-gram, of all characters."""
    max_top_3_gram: float | None = Field(default=0.18, ge=0, le=1)
    """The same of the most frequent 3-gram."""
    max_top_4_gram: float | None = Field(default=0.16, ge=0, le=1)
    """The same of the most frequent 4-gram."""
    max_duplicate_5_grams: float | None = Field(default=0.15, ge=0, le=1)
    """Characters in 5-grams that repeat an earlier one, each counted once, of all characters."""
    max_duplicate_6_grams: float | None = Field(default=0.14, ge=0, le=1)
    """The same for 6-grams."""
    max_duplicate_7_grams: float | None = Field(default=0.13, ge=0, le=1)
    """The same for 7-grams."""
    max_duplicate_8_grams: float | None = Field(default=0.12, ge=0, le=1)
    """The same for 8-grams."""
    max_duplicate_9_grams: float | None = Field(default=0.11, ge=0, le=1)
    """The same for 9-grams."""
    max_duplicate_10_grams: float | None = Field(default=0.10, ge=0, le=1)
    """The same for 10-grams."""

    def top(self) -> tuple[float | None, ...]:
        """Limits for TOP_SIZES."""
        return tuple(getattr(self, f"max_top_{size}_gram") for size in TOP_SIZES)

    def duplicate(self) -> tuple[float | None, ...]:
        """Limits for DUPLICATE_SIZES."""
        return tuple(getattr(self, f"max_duplicate_{size}_grams") for size in DUPLICATE_SIZES)


class C4(Settings):
    """Removes lines, and then documents of which too little is left. What stays is joined by single line feeds."""

    cut_citations: bool = True
    """Cut "[12]", "[]", "[edit]" and "[citation needed]" out of the text."""
    end_punctuation: bool = True
    """Remove lines that do not end in one of . ? ! " ' or that end in three dots."""
    min_line_words: int | None = Field(default=3, ge=0, le=1_000_000_000)
    """Remove lines of fewer words."""
    max_word_length: int | None = Field(default=1000, ge=1, le=1_000_000_000)
    """Remove lines with a word of more characters."""
    remove_javascript: bool = True
    """Remove lines that name JavaScript."""
    remove_policies: bool = True
    """Remove lines with "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies" or "use
    cookies"."""
    drop_lorem_ipsum: bool = True
    """Drop a document with "lorem ipsum" in a line that has stayed so far."""
    drop_curly_brackets: bool = True
    """Drop a document with "{" in a line that has stayed so far: it is taken for code."""
    min_sentences: int | None = Field(default=5, ge=0, le=1_000_000_000)
    """Fewest sentences in the lines that stay."""


class FineWeb(Settings):
    """Limits on what C4's rules leave of a text, or on all of it where they are off; None turns a rule off."""

    min_punctuated_lines: float | None = Field(default=0.12, ge=0, le=1)
    """Smallest share of lines that end in terminal punctuation."""
    max_short_lines: float | None = Field(default=0.67, ge=0, le=1)
    """Largest share of short lines."""
    short_line: int = Field(default=30, ge=0, le=1_000_000_000)
    """Most characters of a short line."""
    max_repeated_line_text: float | None = Field(default=0.01, ge=0, le=1)
    """Largest share of the characters of lines that stand in lines repeating an earlier one."""
    max_newlines_per_word: float | None = Field(default=0.3, ge=0, le=1_000_000_000)
    """Most line feeds, relative to words: more is a list."""


@dataclass(frozen=True)
class Rule:
    """A document for which `broken` holds is dropped for `reason`, with `measured` and `unit` as evidence."""

    reason: str
    broken: pl.Expr
    measured: pl.Expr
    unit: pl.Expr


def gopher_quality_rules(limits: GopherQuality) -> list[Rule]:
    """The rules that are on, over the columns scan.COUNTS."""
    return _on(
        _least(limits.min_words, "too few words", pl.col("words"), "words"),
        _most(limits.max_words, "too many words", pl.col("words"), "words"),
        _least(limits.min_mean_word_length, "words too short", share("letters", "words"), "characters a word"),
        _most(limits.max_mean_word_length, "words too long", share("letters", "words"), "characters a word"),
        _most(limits.max_hashes_per_word, "too many hash signs", share("hashes", "words"), "a word"),
        _most(limits.max_ellipses_per_word, "too many ellipses", share("ellipses", "words"), "a word"),
        _most(limits.max_bullet_lines, "too many bullet lines", share("bullets", "lines"), "of lines"),
        _most(limits.max_ellipsis_lines, "too many cut lines", share("cut", "lines"), "of lines"),
        _least(limits.min_alphabetic_words, "too few real words", share("alphabetic", "words"), "of words"),
        _least(limits.min_stop_words, "too few stop words", pl.col("stop_words"), "stop words"),
    )


def gopher_repetition_rules(limits: GopherRepetition) -> list[Rule]:
    """The rules that are on, over the columns scan.COUNTS and repetition.REPETITIONS."""
    line_text = share("repeated_line_characters", "characters")
    paragraph_text = share("repeated_paragraph_characters", "characters")
    return _on(
        _most(limits.max_repeated_lines, "repeated lines", share("repeated_lines", "lines"), "of lines"),
        _most(
            limits.max_repeated_paragraphs,
            "repeated paragraphs",
            share("repeated_paragraphs", "paragraphs"),
            "of paragraphs",
        ),
        _most(limits.max_repeated_line_text, "text in repeated lines", line_text, "of characters"),
        _most(limits.max_repeated_paragraph_text, "text in repeated paragraphs", paragraph_text, "of characters"),
        *(
            _most(limit, f"frequent {size}-gram", share(f"top_{size}", "characters"), "of characters")
            for size, limit in zip(TOP_SIZES, limits.top(), strict=True)
        ),
        *(
            _most(limit, f"duplicate {size}-grams", share(f"duplicate_{size}", "characters"), "of characters")
            for size, limit in zip(DUPLICATE_SIZES, limits.duplicate(), strict=True)
        ),
    )


def c4_rules(limits: C4) -> list[Rule]:
    """The rules that are on, over the columns c4.FINDINGS and repetition.REMAINS."""
    return _on(
        _most(0 if limits.drop_lorem_ipsum else None, "lorem ipsum", pl.col("placeholders"), "lines"),
        _most(0 if limits.drop_curly_brackets else None, "curly bracket", pl.col("curly_brackets"), "lines"),
        _least(limits.min_sentences, "too few sentences", pl.col("sentences"), "sentences"),
        _least(1, "no line left", pl.col("left_lines"), "lines"),
    )


def fineweb_rules(limits: FineWeb) -> list[Rule]:
    """The rules that are on, over the columns repetition.REMAINS and "left_newlines"."""
    return _on(
        _least(
            limits.min_punctuated_lines,
            "unpunctuated lines",
            share("left_terminal", "left_lines"),
            "of lines end in punctuation",
        ),
        _most(limits.max_short_lines, "short lines", share("left_short", "left_lines"), "of lines"),
        _most(
            limits.max_repeated_line_text,
            "repeated text",
            share("left_repeated", "left_characters"),
            "of characters",
        ),
        _most(limits.max_newlines_per_word, "list of lines", share("left_newlines", "left_words"), "line feeds a word"),
    )


def share(part: str, whole: str) -> pl.Expr:
    """One column relative to another; null where that is 0."""
    return pl.when(pl.col(whole) > 0).then(pl.col(part) / pl.col(whole))


def _least(limit: float | None, reason: str, measured: pl.Expr, unit: str) -> Rule | None:
    if limit is None:
        return None
    return Rule(reason, measured < limit, measured, pl.lit(f"{unit}, at least {limit:g}"))


def _most(limit: float | None, reason: str, measured: pl.Expr, unit: str) -> Rule | None:
    if limit is None:
        return None
    return Rule(reason, measured > limit, measured, pl.lit(f"{unit}, at most {limit:g}"))


def _on(*rules: Rule | None) -> list[Rule]:
    return [rule for rule in rules if rule is not None]
