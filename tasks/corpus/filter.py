"""Drops documents that published quality rules call bad, and says of each document which rule and what was measured.

No Python runs per document: compiled kernels read the bytes of a file of documents once and leave a row of counts for
each (tasks/quality/measures.py), the rules are columnar comparisons over those (tasks/quality/rules.py). All four rule
sets together judge 33 to 55 MB of text a second and core, where datatrove's four judge 0.3 (`python -m
tests.benchmarks.filter`).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from models.named import ByName
from models.settings import Settings
from tasks.core.artifact import Artifact
from tasks.core.batches import Batches, Facts
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.documents import SCHEMA, VERDICTS, as_table, document_files, write_documents, write_rows
from tasks.quality.language import Language, language_rules, languages_of
from tasks.quality.private import Mask, mask
from tasks.quality.rules import (
    C4,
    FineWeb,
    GopherQuality,
    GopherRepetition,
    Rule,
    c4_rules,
    fineweb_rules,
    gopher_quality_rules,
    gopher_repetition_rules,
)


class FilterSettings(Settings):
    """Which rule sets judge, in this order, and what is masked in what they keep. Null turns a set off, `{}` turns it
    on with its published thresholds."""

    language: Language | None = None
    """Languages to keep. Off by default."""
    gopher_quality: GopherQuality | None = GopherQuality()
    """Gopher's rules on words and lines."""
    gopher_repetition: GopherRepetition | None = GopherRepetition()
    """Gopher's rules on repetition."""
    c4: C4 | None = None
    """C4's rules, which also edit the text. Off by default: they remove code, headings and lists."""
    fineweb: FineWeb | None = None
    """FineWeb's rules. Off by default: they are made for web pages, and reference documentation breaks them."""
    mask: Mask | None = Mask()
    """What is masked in the documents that stay."""

    def rules(self) -> list[Rule]:
        """The rules that are on, in the order in which they judge: that of the fields."""
        return [rule for name in self._on() if name in RULES for rule in RULES[name](getattr(self, name))]

    def measures(self, texts: pl.Series) -> list[pl.DataFrame]:
        """What the sets that are on want to know of texts and no kernel measures."""
        return [MEASURED[name](texts) for name in self._on() if name in MEASURED]

    def chosen_names(self) -> set[str]:
        """The sets that are on: the code of the others is not this request's."""
        return set(self._on())

    def _on(self) -> list[str]:
        return [name for name in type(self).model_fields if getattr(self, name) is not None]


RULES: ByName[Callable[[Any], list[Rule]]] = {
    "language": language_rules,
    "gopher_quality": gopher_quality_rules,
    "gopher_repetition": gopher_repetition_rules,
    "c4": c4_rules,
    "fineweb": fineweb_rules,
}
"""What makes rules of the limits of a set."""
MEASURED: ByName[Callable[[pl.Series], pl.DataFrame]] = {"language": languages_of}
"""What measures texts for a set beside the kernels of tasks/quality/measures.py, which are shared by all."""


@stage(version=2)
def filter(documents: Artifact, settings: FilterSettings, out: Path, log: StageLog, batches: Batches) -> Metrics:
    """Write documents-*.parquet with what every rule lets pass, and verdicts-*.parquet on all documents.

    The verdict on a document names the first rule that it breaks.
    """
    paths = document_files(documents)
    counts: Metrics = {"documents": 0, "kept": 0, "kept_bytes": 0}
    rules = settings.rules()
    counts.update((_metric(rule.reason), 0) for rule in rules)
    for path, batch in zip(paths, batches.map("files", partial(_filter_file, settings), paths), strict=True):
        batch.hand_over("documents.parquet", out / path.name)
        batch.hand_over("verdicts.parquet", out / path.name.replace("documents", "verdicts"))
        for name, count in batch.facts.items():
            counts[name] = counts.get(name, 0) + count
    log.info(f"{counts['kept']:,} of {counts['documents']:,} documents pass every rule")
    return counts


def require_documents(filtered: Artifact) -> None:
    """Raise UserError if no document is left: a later night may bring nothing good, but the first one must."""
    counts = filtered.metrics
    if counts.get("kept", 1) == 0:
        metric = max((name for name in counts if name.startswith("dropped_")), key=counts.__getitem__)
        reason = metric.removeprefix("dropped_").replace("_", " ")
        raise UserError(
            f"No document passes the filter: {counts[metric]} of {counts['documents']} are dropped for {reason!r}; "
            "relax that rule in the recipe's `filter`."
        )


def judge(documents: pl.DataFrame, settings: FilterSettings) -> tuple[pl.DataFrame, pl.Series]:
    """The verdict on each document (doc_id, stage, verdict, reason, evidence), and the texts as C4's rules leave them.

    Args:
        documents: doc_id, text, source.
    """
    from tasks.quality.measures import measure

    texts = as_table(documents, SCHEMA)["text"].combine_chunks()
    measures, left = measure(texts, settings.gopher_repetition, settings.c4, settings.fineweb)
    for more in settings.measures(documents["text"]):
        measures = measures.hstack(more)
    rules = settings.rules()
    first = pl.coalesce([pl.when(rule.broken).then(number) for number, rule in enumerate(rules)] + [pl.lit(len(rules))])
    chosen = measures.lazy().with_columns(first.alias("first"))
    measured = pl.coalesce(
        [pl.when(pl.col("first") == number).then(rule.measured.cast(pl.Float64)) for number, rule in enumerate(rules)]
        + [pl.col("words").cast(pl.Float64)]
    )
    unit = pl.coalesce(
        [pl.when(pl.col("first") == number).then(rule.unit) for number, rule in enumerate(rules)] + [pl.lit("words")]
    )
    reasons = pl.Series([*(rule.reason for rule in rules), "passed"])
    verdicts = chosen.select(
        documents["doc_id"],
        pl.lit("filter").alias("stage"),
        pl.when(pl.col("first") == len(rules)).then(pl.lit("kept")).otherwise(pl.lit("dropped")).alias("verdict"),
        pl.col("first").replace_strict(dict(enumerate(reasons)), return_dtype=pl.String).alias("reason"),
        pl.concat_str(measured.round(3).cast(pl.String).str.strip_suffix(".0"), pl.lit(" "), unit).alias("evidence"),
    ).collect()
    return verdicts, documents["text"] if left is texts else pl.Series("text", left)


def _filter_file(settings: FilterSettings, path: Path, folder: Path) -> Facts:
    documents = pl.read_parquet(path)
    verdicts, texts = judge(documents, settings)
    passed = verdicts["verdict"] == "kept"
    kept = documents.with_columns(texts.alias("text")).filter(passed)
    facts: Facts = {}
    if settings.mask is not None:
        masked, facts = mask(kept["text"], settings.mask)
        kept = kept.with_columns(masked.alias("text"))
    write_documents(kept, folder / "documents.parquet")
    write_rows(verdicts, VERDICTS, folder / "verdicts.parquet")
    facts |= {"documents": documents.height, "kept": kept.height, "kept_bytes": int(kept["text"].str.len_bytes().sum())}
    dropped = verdicts.filter(~passed)["reason"].value_counts().sort("reason")
    return facts | {_metric(reason): count for reason, count in dropped.iter_rows()}


def _metric(reason: str) -> str:
    return f"dropped_{reason.replace(' ', '_')}"
