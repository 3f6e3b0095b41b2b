"""The report: one page that says what a night took in, dropped, learned and can do, and one that shows how it came
about.

Both pages are single files without scripts from elsewhere, because MLflow shows artifacts in a sandboxed frame and
a reader may be offline. They hold no times and no paths, so equal runs write equal bytes. What they say of other
stages is read from those stages' files; nothing is computed twice.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from models.learn.incidents import read_incidents
from models.settings import Settings
from tasks.core.artifact import Artifact, Reference
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.documents import document_files
from tasks.corpus.snapshot import Snapshot, snapshot_digest
from tasks.lineage.graph import ancestors, beside
from tasks.release.charts import accuracies_of, bits_of, losses_of
from tasks.release.lineage_page import write_lineage
from tasks.release.pages import TEMPLATES, render


class ReportSettings(Settings):
    """What the pages are called and how much they quote."""

    title: str
    """Heading of both pages: the recipe's name."""
    examples: int = Field(default=1, ge=0)
    """Dropped documents quoted for each reason."""
    excerpt: int = Field(default=320, ge=1)
    """Characters quoted of each."""


@dataclass(frozen=True)
class Figure:
    """A headline number."""

    name: str
    value: str
    remark: str


@dataclass(frozen=True)
class Bar:
    """Documents with one fate; `share` is of all that came in. `stage` heads a group."""

    name: str
    count: int
    share: float
    dropped: bool = False
    stage: str = ""


@dataclass(frozen=True)
class Example:
    """A dropped document; `texts` are role, id and excerpt of it and of the one that was kept instead."""

    reason: str
    evidence: str
    texts: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class NightOfText:
    """What the stages of a night of text made; those of the data stages are of tonight's partition."""

    ingested: Artifact
    filtered: Artifact
    deduplicated: Artifact
    decontaminated: Artifact | None
    tokenizer: Artifact
    tokens: Snapshot
    """The shards of all nights."""
    model: Artifact
    evaluation: Artifact
    export: Artifact
    finetuned: Artifact | None = None
    scratch: Artifact | None = None
    baseline: Artifact | None = None

    def judges(self) -> list[tuple[Artifact, Artifact]]:
        """The stages that drop documents, each with the documents that it judged."""
        found = [(self.filtered, self.ingested), (self.deduplicated, self.filtered)]
        return [*found, (self.decontaminated, self.deduplicated)] if self.decontaminated is not None else found

    def by_name(self) -> dict[str, Artifact]:
        """Every artifact by what the pages call it."""
        named = {
            "ingest": self.ingested,
            "filter": self.filtered,
            "deduplicate": self.deduplicated,
            "decontaminate": self.decontaminated,
            "tokenizer": self.tokenizer,
            "tokenize": self.tokens[-1],
            "pretrain": self.model,
            "evaluate": self.evaluation,
            "finetune": self.finetuned,
            "finetune, from scratch": self.scratch,
            "baseline": self.baseline,
            "export": self.export,
        }
        return {name: artifact for name, artifact in named.items() if artifact is not None}


@stage(version=1, files=(TEMPLATES,))
def report(night: NightOfText, settings: ReportSettings, out: Path, log: StageLog) -> Metrics:
    """Write report.html and lineage.html."""
    judges, model = night.judges(), night.model
    examples = [example for judge, before in judges for example in find_examples(judge, before, settings)]
    whole = totals_of(night.tokens)
    judged = json.loads((night.evaluation.path / "evaluation.json").read_bytes())
    contenders = {
        "pre-trained": (night.finetuned, "first"),
        "from scratch": (night.scratch, "second"),
        "TF-IDF + logistic regression": (night.baseline, "third"),
    }
    accuracies = {name: (found.metrics, colour) for name, (found, colour) in contenders.items() if found is not None}
    render(
        out / "report.html",
        title=settings.title,
        subtitle=f"Model {model.digest[:12]}, trained on snapshot {snapshot_digest(night.tokens)[:12]}{_origin(model)}",
        figures=[*_corpus_figures(night.ingested, judges[-1][0], whole), *_model_figures(judged, accuracies)],
        bars=bars_of(night.ingested, [judge for judge, _ in judges]),
        losses=losses_of(pl.read_parquet(model.path / "losses.parquet")),
        incidents=[str(incident) for incident in read_incidents(model.path)],
        bits=bits_of(judged),
        measure=judged["measure"].replace("_", " ").capitalize(),
        masked=judged["measure"] == "bits_per_hidden_token",
        accuracies=accuracies_of(accuracies) if accuracies else None,
        samples=json.loads((night.evaluation.path / "samples.json").read_bytes()),
        examples=examples,
        artifacts=[{"name": name, "digest": artifact.digest} for name, artifact in night.by_name().items()],
    )
    drawn = write_lineage(out / "lineage.html", settings.title, ancestors(night.by_name().values(), beside(model)))
    log.info(f"report and lineage of {drawn} artifacts")
    return {"artifacts": drawn, "examples": len(examples), **whole}


def totals_of(tokens: Snapshot) -> dict[str, int]:
    """What all nights together hold: partitions, documents, train_tokens, heldout_tokens."""
    wanted = ("train_documents", "heldout_documents", "train_tokens", "heldout_tokens")
    sums = {name: sum(int(partition.metrics[name]) for partition in tokens) for name in wanted}
    documents = sums.pop("train_documents") + sums.pop("heldout_documents")
    return {"partitions": len(tokens), "documents": documents, **sums}


def bars_of(ingested: Artifact, judges: Sequence[Artifact]) -> list[Bar]:
    """What became of the documents: in, dropped by stage and reason (most first), kept."""
    total = int(ingested.metrics["documents"])
    bars = [Bar("taken in", total, 1.0 if total else 0.0)]
    for artifact in judges:
        counts = (
            _dropped(artifact)
            .group_by("reason")
            .len()
            .sort(["len", "reason"], descending=[True, False])
            .collect()
            .iter_rows()
        )
        for i, (reason, count) in enumerate(counts):
            heading = "" if i else f"dropped by {artifact.stage}"
            bars.append(Bar(reason, count, count / total, dropped=True, stage=heading))
    kept = int(judges[-1].metrics["kept"])
    return [*bars, Bar("kept", kept, kept / total if total else 0.0, stage="left to learn from")]


def find_examples(artifact: Artifact, before: Artifact, settings: ReportSettings) -> list[Example]:
    """For each reason of a stage's drops the first documents, quoted from `before`, which holds them still."""
    verdicts = _dropped(artifact)
    if "survivor" not in verdicts.collect_schema():
        verdicts = verdicts.with_columns(survivor=pl.lit(None, pl.String))
    rank = pl.int_range(pl.len()).over("reason")
    chosen = verdicts.filter(rank < settings.examples).sort("reason", maintain_order=True).collect()
    quoted = _quote(before, [*chosen["doc_id"], *chosen["survivor"].drop_nulls()], settings.excerpt)
    found = []
    for row in chosen.iter_rows(named=True):
        texts = [{"role": "dropped", "doc_id": row["doc_id"], "excerpt": quoted.get(row["doc_id"], "")}]
        if row["survivor"] is not None:
            survivor = row["survivor"]
            texts.append({"role": "kept instead", "doc_id": survivor, "excerpt": quoted.get(survivor, "")})
        found.append(Example(row["reason"], row["evidence"] or "", tuple(texts)))
    return found


def _corpus_figures(ingested: Artifact, last_judge: Artifact, whole: dict[str, int]) -> Iterator[Figure]:
    taken, kept = ingested.metrics["documents"], last_judge.metrics["kept"]
    megabytes = ingested.metrics["bytes"] / 1e6
    nights = whole["partitions"]
    name = "documents kept" if nights == 1 else "new documents kept"
    yield Figure(name, f"{kept:,}", f"of {taken:,} taken in, {megabytes:,.1f} MB")
    heldout = f"and {_millions(whole['heldout_tokens'])} held out"
    beside = heldout if nights == 1 else f"{heldout}, in {whole['documents']:,} documents of {nights} nights"
    yield Figure("tokens to learn from", _millions(whole["train_tokens"]), beside)


def _model_figures(
    judged: dict[str, Any], accuracies: dict[str, tuple[dict[str, int | float], str]]
) -> Iterator[Figure]:
    measure = judged["measure"]
    before, after = judged["before"]["all"][measure], judged["after"]["all"][measure]
    yield Figure(measure.replace("_", " "), f"{after:.3f}", f"{before:.3f} before training; lower is better")
    if "pre-trained" in accuracies:
        others = [f"{name} {metrics['accuracy']:.1%}" for name, (metrics, _) in list(accuracies.items())[1:]]
        own = accuracies["pre-trained"][0]["accuracy"]
        yield Figure("accuracy, pre-trained", f"{own:.1%}", ", ".join(others))


def _origin(model: Artifact) -> str:
    """From what the training went on, unless from nothing."""
    previous = model.manifest.inputs.get("previous")
    if isinstance(previous, Reference):
        return f" from the trunk of {previous.digest[:12]}"
    return " from weights of another's making" if model.manifest.settings.get("settings", {}).get("start_files") else ""


def _dropped(artifact: Artifact) -> pl.LazyFrame:
    return pl.scan_parquet(artifact.path / "verdicts-*.parquet").filter(pl.col("verdict") == "dropped")


def _quote(artifact: Artifact, doc_ids: Sequence[str], characters: int) -> dict[str, str]:
    """The beginnings of some documents; one pass over the files, holding one of them at a time."""
    quoted: dict[str, str] = {}
    for path in document_files(artifact):
        wanted = pl.scan_parquet(path).filter(pl.col("doc_id").is_in(doc_ids)).select("doc_id", "text").collect()
        for doc_id, text in wanted.iter_rows():
            quoted[doc_id] = text if len(text) <= characters else text[:characters].rstrip() + " …"
    return quoted


def _millions(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value:,}"
