"""Teaches a new model the language of the corpus: next-token prediction over the tokenized shards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.spec import FitSpec, Machine, ModelConfig, Optimisation, Source, TokenStream
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.core.store import Artifact
from tasks.snapshot import Snapshot, shards_of, snapshot_digest
from tasks.supervise import supervise
from tasks.tokens.vocabulary import count_ids, load_tokenizer


class PretrainSettings(BaseModel):
    """The model, and how long and how fast it learns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int = Field(default=4, gt=0)
    """Blocks of attention and MLP."""
    width: int = Field(default=256, gt=0)
    """Features of the residual stream; a multiple of heads."""
    heads: int = Field(default=4, gt=0)
    """Query heads."""
    kv_heads: int = Field(default=2, gt=0)
    """Key and value heads; divides heads."""
    context_length: int = Field(default=256, gt=0)
    """Tokens a window."""
    batch: int = Field(default=8, gt=0)
    """Windows in one update. Small, for small budgets: 0.8 million tokens end at loss 5.05 with 8, 5.27 with 16."""
    tokens: int = Field(default=2_000_000, gt=0)
    """Tokens to learn from, repetitions counted: steps = tokens / (batch x context_length), at least one."""
    learning_rate: float = Field(default=1.5e-3, gt=0)
    """Peak of AdamW's rate. 1e-3 and 2e-3 do equally well at the default batch; 5e-3 at batch 16 is far too high."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the rate rises."""
    cooldown: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps, the last ones, in which the rate falls to zero as 1 - sqrt."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of matrices."""
    seed: int = Field(default=0, ge=0)
    """Of initial weights and order."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto = bf16 where the hardware has units for it."""
    checkpoint_every: int = Field(default=50, gt=0, exclude=True)
    """Steps between checkpoints, that is, what a kill can cost. Changes no bit, so it is not part of the key."""

    @property
    def steps(self) -> int:
        """Updates of the weights."""
        return max(1, self.tokens // (self.batch * self.context_length))


@stage(version=1, libraries=("torch", "pytorch-lightning"), modules=("models.fit",))
def pretrain(
    tokens: Snapshot, tokenizer: Artifact, settings: PretrainSettings, out: Path, work: Path, log: StageLog
) -> Metrics:
    """Train from fresh weights; `out` receives config.json, model.safetensors (float32) and losses.parquet.

    Raises UserError for a shape that cannot be, StageError when the training process fails (see tasks/supervise.py).
    """
    model = shape(settings, vocabulary_size(tokenizer))
    shards = shards_of(tokens, "train")
    if not shards:
        raise UserError("There is nothing to train on: the corpus gave no training document.")
    steps = settings.steps
    spec = FitSpec(
        model=model,
        data=TokenStream(sources=(Source(name="all", shards=shards),), digest=snapshot_digest(tokens)),
        optimisation=Optimisation(
            learning_rate=settings.learning_rate,
            warmup_steps=round(steps * settings.warmup),
            cooldown_steps=round(steps * settings.cooldown),
            weight_decay=settings.weight_decay,
        ),
        steps=steps,
        batch=settings.batch,
        seed=settings.seed,
        machine=Machine(precision=settings.precision),
        work=work,
        out=out,
        checkpoint_every=settings.checkpoint_every,
    )
    supervise(spec, log)
    return {
        "steps": steps,
        "tokens_seen": steps * settings.batch * settings.context_length,
        "weights": weights_in(model),
        "final_loss": mean_last_loss(out / "losses.parquet"),
    }


def shape(settings: PretrainSettings, vocabulary: int) -> ModelConfig:
    """The model that the settings ask for."""
    try:
        return ModelConfig.sized(
            vocabulary=vocabulary,
            context_length=settings.context_length,
            layers=settings.layers,
            width=settings.width,
            heads=settings.heads,
            kv_heads=settings.kv_heads,
        )
    except ValidationError as error:
        raise UserError(f"The model cannot have this shape: {error.errors()[0]['msg']}.") from error
    except ValueError as error:
        raise UserError(f"The model cannot have this shape: {error}.") from error


def vocabulary_size(tokenizer: Artifact) -> int:
    """Rows that the embedding needs: one for each id, rounded up to a multiple of 64 for the matrix units."""
    return -(-count_ids(load_tokenizer(tokenizer)) // 64) * 64


def weights_in(model: ModelConfig) -> int:
    """Numbers that the model learns; the tied embedding counts once."""
    attention = 2 * model.width * model.head_width * (model.heads + model.kv_heads) + 2 * model.head_width
    block = attention + 3 * model.width * model.mlp_width + 2 * model.width
    head = 0 if model.classes is None else (model.width + 1) * model.classes
    return model.vocabulary * model.width + model.layers * block + model.width + head


def mean_last_loss(losses: Path) -> float:
    """Mean of the last tenth of the steps: one batch alone is noise."""
    import polars as pl

    column = pl.read_parquet(losses, columns=["loss"])["loss"]
    return float(column.tail(max(1, len(column) // 10)).to_numpy().mean())
