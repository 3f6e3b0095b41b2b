"""A night as the stages leave it in a store: real formats, made-up figures, no training."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import polars as pl

from tasks.core.artifact import Artifact, Reference, Request
from tasks.core.journal import Journal
from tasks.core.store import Store
from tasks.release.report import NightOfText

SOURCES = ("stdlib", "topics", "numpy", "polars", "sklearn", "torch", "licences")
DROPPED_BY_FILTER = (("too few words", "12 words, at least 50", 9), ("repeated lines", "0.41 of lines, at most 0.3", 4))


@dataclass(frozen=True)
class Made:
    """The artifacts of a night, by the name of their node."""

    store: Store
    artifacts: dict[str, Artifact]

    def of_text(self) -> NightOfText:
        """What the report is drawn of."""
        made = self.artifacts
        return NightOfText(
            ingested=made["ingest"],
            filtered=made["filter"],
            deduplicated=made["deduplicate"],
            decontaminated=None,
            tokenizer=made["tokenizer"],
            tokens=(made["tokenize"],),
            model=made["pretrain"],
            evaluation=made["evaluate"],
            export=made["export"],
            finetuned=made["finetune"],
            scratch=made["finetune-scratch"],
            baseline=made["baseline"],
        )


def make_night(home: Path, documents: int = 120) -> Made:
    """Commit a night's artifacts below `home`; the same bytes each time."""
    store = Store(home)
    made: dict[str, Artifact] = {}
    scratch = count()

    def commit(node: str, stage: str, inputs: list[str], metrics: dict[str, Any], files: Any, **settings: Any) -> None:
        out = store.scratch(str(next(scratch)))
        out.mkdir(parents=True)
        files(out)
        references: dict[str, Reference | list[Reference] | None] = {name: made[name].reference for name in inputs}
        request = Request(
            stage=stage,
            version=1,
            inputs=references,
            settings=settings,
            code={f"tasks.{stage}": "0123456789abcdef"},
            libraries={"polars": "2.1.0"},
        )
        made[node] = store.commit(request, out, metrics)

    table = _documents(documents)
    verdicts_1, kept_1 = _filter(table)
    verdicts_2, kept_2 = _deduplicate(kept_1)
    commit(
        "ingest",
        "ingest",
        [],
        {"documents": documents, "bytes": int(table["text"].str.len_bytes().sum()), "rejects": 1},
        lambda out: table.write_parquet(out / "documents-00000.parquet"),
        sources=[{"kind": "python-docs"}],
    )
    commit(
        "filter",
        "filter",
        ["ingest"],
        {"documents": documents, "kept": kept_1.height},
        _judged(kept_1, verdicts_1),
        min_words=50,
    )
    commit(
        "deduplicate",
        "deduplicate",
        ["filter"],
        {"documents": kept_1.height, "kept": kept_2.height},
        _judged(kept_2, verdicts_2),
        threshold=0.75,
    )
    commit("tokenizer", "tokenizer", ["deduplicate"], {"vocabulary": 8192}, _text("tokenizer.json", "{}"), size=8192)
    tokens = {"train_tokens": 9_876_543, "heldout_tokens": 512_345, "train_documents": 92, "heldout_documents": 10}
    commit("tokenize", "tokenize", ["deduplicate", "tokenizer"], tokens, _text("train-00000.arrow", "tokens"))
    commit(
        "examples", "examples", ["deduplicate", "tokenizer"], {"train": 2000, "test": 800}, _text("labels.json", "[]")
    )
    weights = {"weights": 4_203_776, "steps": 900, "final_loss": 3.21, "skipped_steps": 0, "rollbacks": 0}
    commit(
        "pretrain",
        "pretrain",
        ["tokenize", "tokenizer"],
        weights,
        lambda out: losses(900).write_parquet(out / "losses.parquet"),
        steps=900,
        learning_rate=3e-3,
    )
    commit(
        "evaluate",
        "evaluate",
        ["tokenize", "tokenizer", "pretrain"],
        {"bits_per_byte": 1.934, "bits_per_byte_before": 4.021},
        _evaluation,
    )
    accuracies = (("finetune", 0.831, "pretrained"), ("finetune-scratch", 0.642, "scratch"))
    for node, accuracy, start in accuracies:
        metrics = {"accuracy": accuracy, "accuracy_low": accuracy - 0.026, "accuracy_high": accuracy + 0.025}
        inputs = ["examples", "tokenizer", "pretrain"]
        commit(node, "finetune", inputs, metrics | {"labels": 500}, _text("config.json", start), start=start)
    metrics = {"accuracy": 0.752, "accuracy_low": 0.72, "accuracy_high": 0.781, "labels": 500}
    commit("baseline", "baseline", ["examples"], metrics, _text("predictions.parquet", "0"), labels=500)
    commit(
        "export", "export", ["pretrain", "tokenizer"], {"bytes": 16_815_104}, _text("README.md", "# A small model\n")
    )
    return Made(store, made)


def losses(steps: int) -> pl.DataFrame:
    """A loss curve that falls as such curves do."""
    step = np.arange(1, steps + 1)
    noise = np.random.default_rng(0).normal(0, 0.08, steps)
    rate = 3e-3 * np.minimum(step / 50, 1) * (1 - np.sqrt(np.maximum(step / steps - 0.8, 0) / 0.2))
    loss = 2.9 + (math.log(8192) - 2.9) * np.exp(-step / 60) + 0.9 * np.exp(-step / 400) + noise
    return pl.DataFrame({"step": step, "loss": loss, "learning_rate": rate, "grad_norm": np.full(steps, 0.7)})


def write_journal(path: Path, made: Made, report: Artifact) -> None:
    """The journal that the flow and the stages would have written for this night, ended well."""
    journal = Journal(path)
    journal.append("start", name=path.stem, experiment="quickstart", tags={"nightschool.recipe": "quickstart.yaml"})
    at = 1_790_000_000_000
    artifacts = made.artifacts | {"report": report}
    for node, artifact in artifacts.items():
        manifest = artifact.manifest
        tags = {"nightschool.stage": artifact.stage, "nightschool.key": manifest.key}
        journal.append("start", node, name=node, tags=tags)
        journal.append("params", node, values=manifest.settings)
        for name, reference in manifest.references():
            source = made.store.path(reference.stage, reference.digest).resolve().as_uri()
            journal.append(
                "input",
                node,
                name=reference.stage,
                digest=reference.digest,
                source=source,
                source_type="local",
                tags={"nightschool.parameter": name},
            )
        if node == "pretrain":
            for row in losses(900).iter_rows(named=True):
                step = row.pop("step")
                journal.append("metrics", node, values=row, step=step, at=at + 200 * step)
        values = {name: float(value) for name, value in artifact.metrics.items()}
        journal.append("metrics", node, values=values, step=0, at=at)
        journal.append("tags", node, values={"nightschool.output.digest": artifact.digest})
        journal.append("end", node, status="FINISHED")
    for page in ("report.html", "lineage.html"):
        journal.append("artifact", path=str((report.path / page).resolve()), to="")
    export = artifacts["export"]
    journal.append(
        "model", "export", name="quickstart", path=str(export.path), digest=export.digest, tags={"stage": "export"}
    )
    journal.append("end", status="FINISHED")
    journal.close()


def _documents(documents: int) -> pl.DataFrame:
    names = sorted(topics)
    rows = []
    for i in range(documents):
        name = names[i % len(names)]
        rows.append((f"python/{name}#{i}", topics[name][:4000], SOURCES[i % len(SOURCES)]))
    return pl.DataFrame(rows, schema=["doc_id", "text", "source"], orient="row")


def _filter(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    fates = [(reason, evidence) for reason, evidence, times in DROPPED_BY_FILTER for _ in range(times)]
    rows = []
    for i, doc_id in enumerate(table["doc_id"]):
        reason, evidence = fates[i // 5] if i % 5 == 0 and i // 5 < len(fates) else ("passed", "812 words")
        rows.append((doc_id, "filter", "kept" if reason == "passed" else "dropped", reason, evidence))
    verdicts = pl.DataFrame(rows, schema=["doc_id", "stage", "verdict", "reason", "evidence"], orient="row")
    return verdicts, table.filter(verdicts["verdict"] == "kept")


def _deduplicate(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    ids = table["doc_id"].to_list()
    rows: list[tuple[str, str, str, str, str | None, str | None, float | None]] = []
    for i, doc_id in enumerate(ids):
        if i in (7, 19, 30):
            rows.append((doc_id, "deduplicate", "dropped", "exact duplicate", f"same words as {ids[1]}", ids[1], 1.0))
        elif i in (40, 41):
            evidence = f"estimated Jaccard similarity 0.893 to {ids[2]}"
            rows.append((doc_id, "deduplicate", "dropped", "near-duplicate", evidence, ids[2], 0.893))
        else:
            rows.append((doc_id, "deduplicate", "kept", "new", None, None, None))
    columns = ["doc_id", "stage", "verdict", "reason", "evidence", "survivor", "similarity"]
    verdicts = pl.DataFrame(rows, schema=columns, orient="row")
    return verdicts, table.filter(verdicts["verdict"] == "kept")


def _evaluation(out: Path) -> None:
    def estimates(level: float, spread: float) -> dict[str, Any]:
        def one(value: float, size: int) -> dict[str, float]:
            return {"bits_per_byte": value, "low": value - spread, "high": value + spread, "bytes": size}

        sources = {name: one(level + 0.11 * (i - 3), 40_000 - 3000 * i) for i, name in enumerate(SOURCES)}
        return {"all": one(level, 230_000), "sources": sources}

    evaluation = {"measure": "bits_per_byte", "before": estimates(4.021, 0.03), "after": estimates(1.934, 0.05)}
    (out / "evaluation.json").write_text(json.dumps(evaluation, sort_keys=True))
    samples = [
        {"prompt": "The return value is", "text": " a list of the names in the current <module>, sorted & unique."},
        {
            "prompt": "def read_text(self",
            "text": ", encoding=None):\n    Open the file in text mode, read it, and close.",
        },
    ]
    (out / "samples.json").write_text(json.dumps(samples))


def _judged(kept: pl.DataFrame, verdicts: pl.DataFrame) -> Callable[[Path], None]:
    def write(out: Path) -> None:
        kept.write_parquet(out / "documents-00000.parquet")
        verdicts.write_parquet(out / "verdicts-00000.parquet")

    return write


def _text(name: str, text: str) -> Any:
    return lambda out: (out / name).write_text(text)
