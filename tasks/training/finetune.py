"""Adapts a pre-trained model to a labelled task, or trains its from-scratch twin: all the same but the first weights.

What the pair shows is what pre-training is worth at that number of labels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc
from pydantic import Field, model_validator

from models.settings import NotInKey, Settings
from models.spec import FitSpec, LabelledExamples, Machine, Optimisation, StartingPoint
from models.text.identify import load_config
from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.labels import choose_labels
from tasks.judging.baseline import wilson
from tasks.tokens.vocabulary import count_ids, load_tokenizer
from tasks.training.supervise import supervise


class FinetuneSettings(Settings):
    """The task, the labels that it may see, and how the weights move."""

    task: Literal["classification"] = "classification"
    """What is learnt from the labels."""
    start: Literal["pretrained", "scratch"] = "pretrained"
    """First weights: the pre-trained ones, or fresh ones in the same shape."""
    labels: int = Field(default=240, ge=2, le=10_000_000)
    """Labelled examples to learn from, balanced over the classes."""
    epochs: int = Field(default=8, gt=0, le=100_000)
    """Times that each of them is seen."""
    batch: int = Field(default=16, gt=0, le=1 << 20)
    """Examples in one update."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak of AdamW's rate."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps in which the rate rises."""
    cooldown: float = Field(default=0.6, ge=0, le=1)
    """Share of the steps, the last ones, in which the rate falls to zero as 1 - sqrt."""
    weight_decay: float = Field(default=0.1, ge=0, le=10)
    """Decoupled decay of matrices."""
    weights: Literal["all", "head"] = "all"
    """Which weights learn; head = only the new classification layer."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """The number from which the choice of labels, fresh weights and order follow."""
    machine: Machine = Machine()
    """By what it is computed."""
    checkpoint_every: NotInKey[int] = Field(default=100, gt=0, le=10**9)
    """Steps between checkpoints, that is, what a kill can cost. Changes no bit, so it is not part of the key."""

    @model_validator(mode="after")
    def _shares_of_the_same_steps(self) -> Self:
        if self.warmup + self.cooldown > 1:
            raise ValueError(
                f"warmup ({self.warmup:g}) and cooldown ({self.cooldown:g}) are shares of the same steps and add up to "
                "more than 1: lower one of them"
            )
        return self


@stage(version=1, runs=("models.fit:fit",), names=("transformer", "adamw"))
def finetune(
    examples: Artifact,
    tokenizer: Artifact,
    pretrained: Artifact,
    settings: FinetuneSettings,
    out: Path,
    work: Path,
    log: StageLog,
) -> Metrics:
    """Train on the label budget, predict all of test.arrow; the accuracy comes with its 95 % Wilson interval.

    `out` receives config.json, model.safetensors, losses.parquet and predictions.parquet (doc_id, label, predicted).

    Raises UserError when the budget exceeds the pool or model and tokenizer do not belong together, StageError when
    the training process fails (see tasks/training/supervise.py).
    """
    base = load_config(pretrained.path)
    if not base.classifies:
        raise UserError(
            f"The model {pretrained.digest[:12]} is a {base.architecture}, and classification is learnt by our own "
            "transformer only: remove `finetune` from the recipe, and fine-tune the exported folder elsewhere."
        )
    words = count_ids(load_tokenizer(tokenizer))
    if words > base.vocabulary:
        raise UserError(
            f"The tokenizer {tokenizer.digest[:12]} has {words} tokens and the model {pretrained.digest[:12]} only "
            f"{base.vocabulary}: use the tokenizer that the model was trained with."
        )
    classes = json.loads((examples.path / "labels.json").read_text(encoding="utf-8"))
    chosen = choose_labels(_labels(examples.path / "train.arrow"), settings.labels, settings.seed)
    steps = max(1, settings.epochs * settings.labels // settings.batch)
    spec = FitSpec(
        model=base.model_copy(update={"classes": len(classes)}),
        data=LabelledExamples(
            train=examples.path / "train.arrow",
            rows=tuple(chosen.tolist()),
            test=examples.path / "test.arrow",
            digest=examples.digest,
        ),
        optimisation=Optimisation(
            learning_rate=settings.learning_rate,
            warmup_steps=round(steps * settings.warmup),
            cooldown_steps=round(steps * settings.cooldown),
            weight_decay=settings.weight_decay,
            beta2=0.99,
            spike_deviations=None,  # an example that is hard to learn is no spike
        ),
        steps=steps,
        batch=settings.batch,
        seed=settings.seed,
        machine=settings.machine,
        start=StartingPoint(folder=pretrained.path, digest=pretrained.digest)
        if settings.start == "pretrained"
        else None,
        weights=settings.weights,
        work=work,
        out=out,
        checkpoint_every=settings.checkpoint_every,
    )
    supervise(spec, log)
    predictions = pl.read_parquet(out / "predictions.parquet")
    right = int((predictions["label"] == predictions["predicted"]).sum())
    low, high = wilson(right, predictions.height)
    log.info(f"{right / predictions.height:.1%} of {predictions.height} right after {settings.labels} labels")
    return {
        "accuracy": right / predictions.height,
        "accuracy_low": low,
        "accuracy_high": high,
        "labels": settings.labels,
        "classes": len(classes),
        "test": predictions.height,
        "steps": steps,
    }


def _labels(shard: Path) -> np.ndarray:
    with pa.memory_map(str(shard)) as source:
        return np.asarray(pa.ipc.open_file(source).read_all()["label"].to_numpy())
