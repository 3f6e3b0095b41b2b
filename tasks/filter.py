"""Drops documents that published quality rules call bad, and says of each document which rule and what was measured.

Rules are columnar expressions over one file of documents at a time, so no Python runs per document: 50 MB of text a
second and core. A word is a maximal run of characters without white space; a line is one that is not blank.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.core.store import Artifact
from tasks.documents import VERDICTS, as_table, read_documents, write_documents

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Rae et al. 2021, appendix A1.1


class FilterSettings(BaseModel):
    """Thresholds with the published values as defaults; None turns a rule off.

    "Gopher" is Rae et al. 2021 (arXiv 2112.11446), appendix A1.1; "C4" is Raffel et al. 2020 (arXiv 1910.10683),
    section 2.2.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    min_words: int | None = Field(default=50, ge=0)
    """Fewest words of a document (Gopher: 50)."""
    max_words: int | None = Field(default=100_000, ge=1)
    """Most words of a document (Gopher: 100,000)."""
    min_mean_word_length: float | None = Field(default=3.0, ge=0)
    """Smallest mean number of characters in a word (Gopher: 3)."""
    max_mean_word_length: float | None = Field(default=10.0, ge=0)
    """Largest mean number of characters in a word (Gopher: 10)."""
    max_hashes_per_word: float | None = Field(default=0.1, ge=0)
    """Most hash signs, relative to words (Gopher: 0.1)."""
    max_ellipses_per_word: float | None = Field(default=0.1, ge=0)
    """Most ellipses, relative to words (Gopher: 0.1)."""
    max_bullet_lines: float | None = Field(default=0.9, ge=0, le=1)
    """Largest share of lines that start with a bullet point (Gopher: 0.9)."""
    max_ellipsis_lines: float | None = Field(default=0.3, ge=0, le=1)
    """Largest share of lines that end in an ellipsis (Gopher: 0.3)."""
    min_alphabetic_words: float | None = Field(default=0.8, ge=0, le=1)
    """Smallest share of words with at least one letter (Gopher: 0.8)."""
    min_stop_words: int | None = Field(default=2, ge=0, le=len(STOP_WORDS))
    """How many different ones of the, be, to, of, and, that, have, with must occur (Gopher: 2)."""
    max_duplicate_lines: float | None = Field(default=0.3, ge=0, le=1)
    """Largest share of lines that repeat an earlier line of the document (Gopher, table A1: 0.3)."""
    drop_lorem_ipsum: bool = True
    """Drop what contains the placeholder text "lorem ipsum" (C4)."""
    drop_curly_brackets: bool = False
    """Drop what contains "{" (C4, to be rid of code). Off by default: code is wanted beside prose."""


@dataclass(frozen=True)
class Rule:
    """A document for which `broken` holds is dropped for `reason`, with `measured` and `unit` as evidence."""

    reason: str
    broken: pl.Expr
    measured: pl.Expr
    unit: str

    @property
    def evidence(self) -> pl.Expr:
        value = self.measured.cast(pl.Float64).round(3).cast(pl.String).str.strip_suffix(".0")
        return pl.concat_str(value, pl.lit(f" {self.unit}"))


@stage(version=1, libraries=("polars", "pyarrow"))
def filter(documents: Artifact, settings: FilterSettings, out: Path, log: StageLog) -> Metrics:
    """Write documents-*.parquet with what every rule lets pass, and verdicts.parquet on all documents.

    The verdict on a document names the first rule that it breaks, in the order of the settings' fields.

    Raises UserError if no document is left.
    """
    rules = rules_of(settings)
    counts: Metrics = {"documents": 0, "kept": 0, "kept_bytes": 0}
    counts.update((_metric(rule.reason), 0) for rule in rules)
    with pq.ParquetWriter(out / "verdicts.parquet", VERDICTS, compression="zstd") as writer:
        for number, batch in enumerate(read_documents(documents)):
            verdicts = judge(batch, rules)
            kept = batch.filter(verdicts["verdict"] == "kept")
            write_documents(kept, out, number)
            writer.write_table(as_table(verdicts, VERDICTS))
            counts["documents"] += batch.height
            counts["kept"] += kept.height
            counts["kept_bytes"] += int(kept["text"].str.len_bytes().sum())
            for reason, count in verdicts.filter(verdict="dropped")["reason"].value_counts().iter_rows():
                counts[_metric(reason)] += count
            log.progress(counts["documents"], documents.metrics.get("documents", 0), "documents")
    if not counts["kept"]:
        often = max(rules, key=lambda rule: counts[_metric(rule.reason)])
        raise UserError(
            f"No document passes the filter: {counts[_metric(often.reason)]} of {counts['documents']} are dropped for "
            f"{often.reason!r}; relax that rule in the recipe's `filter`."
        )
    log.info(f"{counts['kept']:,} of {counts['documents']:,} documents pass every rule")
    return counts


def judge(batch: pl.DataFrame, rules: list[Rule]) -> pl.DataFrame:
    """The verdict on each document of a batch: doc_id, stage, verdict, reason, evidence."""
    reason = pl.coalesce([pl.when(rule.broken).then(pl.lit(rule.reason)) for rule in rules] + [pl.lit("passed")])
    evidence = pl.coalesce(
        [pl.when(rule.broken).then(rule.evidence) for rule in rules] + [pl.format("{} words", "words")]
    )
    return (
        batch.lazy()
        .with_columns(_measures())
        .with_columns(reason=reason, evidence=evidence)
        .select(
            "doc_id",
            pl.lit("filter").alias("stage"),
            pl.when(pl.col("reason") == "passed").then(pl.lit("kept")).otherwise(pl.lit("dropped")).alias("verdict"),
            "reason",
            "evidence",
        )
        .collect()
    )


def rules_of(settings: FilterSettings) -> list[Rule]:
    """The rules that the settings turn on."""
    words, lines = pl.col("words"), pl.col("lines")
    rules = []

    def add(limit: float | None, reason: str, measured: pl.Expr, unit: str, *, most: bool) -> None:
        if limit is not None:
            broken = measured > limit if most else measured < limit
            rules.append(Rule(reason, broken, measured, f"{unit}, at {'most' if most else 'least'} {limit:g}"))

    mean_length = pl.col("letters") / words
    add(settings.min_words, "too few words", words, "words", most=False)
    add(settings.max_words, "too many words", words, "words", most=True)
    add(settings.min_mean_word_length, "words too short", mean_length, "characters a word", most=False)
    add(settings.max_mean_word_length, "words too long", mean_length, "characters a word", most=True)
    add(settings.max_hashes_per_word, "too many hash signs", pl.col("hashes") / words, "a word", most=True)
    add(settings.max_ellipses_per_word, "too many ellipses", pl.col("ellipses") / words, "a word", most=True)
    add(settings.max_bullet_lines, "too many bullet lines", pl.col("bullets") / lines, "of lines", most=True)
    add(settings.max_ellipsis_lines, "too many cut lines", pl.col("cut") / lines, "of lines", most=True)
    add(
        settings.min_alphabetic_words,
        "too few real words",
        pl.col("alphabetic") / words,
        "of words",
        most=False,
    )
    add(settings.min_stop_words, "too few stop words", pl.col("stop_words"), "stop words", most=False)
    add(settings.max_duplicate_lines, "repeated lines", 1 - pl.col("different") / lines, "of lines", most=True)
    lorem, curly = (
        pl.col("text").str.count_matches("(?i)lorem ipsum"),
        pl.col("text").str.count_matches(r"\{"),
    )
    add(0 if settings.drop_lorem_ipsum else None, "lorem ipsum", lorem, "times", most=True)
    add(0 if settings.drop_curly_brackets else None, "curly bracket", curly, "curly brackets", most=True)
    return rules


def _measures() -> list[pl.Expr]:
    """What the rules compare. An empty document has zero words and lines: ratios are then NaN, and break no rule."""
    text = pl.col("text")
    line = pl.element().str.strip_chars()
    stop_words = [text.str.contains(rf"(?i)\b{word}\b").cast(pl.UInt32) for word in STOP_WORDS]
    return [
        text.str.count_matches(r"\S+").alias("words"),
        (text.str.len_chars() - text.str.count_matches(r"\s")).alias("letters"),
        text.str.count_matches("#", literal=True).alias("hashes"),
        text.str.count_matches(r"\.\.\.|…").alias("ellipses"),
        text.str.count_matches(r"(?m)^.*\S").alias("lines"),
        text.str.count_matches(r"(?m)^[^\S\n]*[•‣*-]").alias("bullets"),
        text.str.count_matches(r"(?m)(?:\.\.\.|…)[^\S\n]*$").alias("cut"),
        text.str.count_matches(r"[^\s\p{L}]*\p{L}\S*").alias("alphabetic"),
        pl.sum_horizontal(stop_words).alias("stop_words"),
        text.str.split("\n").list.eval(line.filter(line != "")).list.n_unique().alias("different"),
    ]


def _metric(reason: str) -> str:
    return f"dropped_{reason.replace(' ', '_')}"
