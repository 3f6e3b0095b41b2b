"""Teaches a model the language of the corpus over the tokenized shards: a new one, one from elsewhere, or last night's.

Night after night the trunk goes on at a constant rate, and what leaves the house is a short branch off it with a
falling rate (Hu et al. 2024, "MiniCPM", section 4: a trunk can be continued with new data where a finished schedule
cannot). A night then costs the tokens of that night, whatever was learnt before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, model_validator

from models.sizes import SIZES, Derived, derived, kv_heads
from models.spec import FitSpec, HubModel, Machine, MaskedToken, ModelConfig, NextToken, Optimisation, TokenStream
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.core.store import Artifact
from tasks.incidents import count_incidents
from tasks.mixing import mix
from tasks.snapshot import Snapshot, shards_of, snapshot_digest
from tasks.starting import fingerprints, model_at, partitions_of, starting_model, trunk_of
from tasks.supervise import supervise
from tasks.tokens.vocabulary import count_ids, load_tokenizer, mask_id

TRUNK_SETTINGS = (
    *("layers", "width", "heads", "kv_heads", "context_length", "tied", "start_files"),
    *("objective", "algorithm"),
)
"""What a trunk cannot change on its way: shape, objective, and what the optimizer remembers."""
BY_RULE = ("tokens", "batch", "learning_rate", "weight_decay")
"""Settings that a rule gives where the recipe does not; warmup and cooldown are two more, as shares."""
ATTENTION: dict[str, Literal["causal", "bidirectional"]] = {"next_token": "causal", "masked_token": "bidirectional"}
"""What a token may see so that its objective is no copying."""


class MaskingSettings(BaseModel):
    """What a masked model has to guess."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of a window's tokens that are predicted. 0.15 is BERT's; larger models learn more from 0.3 to 0.4 (Wettig
    et al. 2022, "Should You Mask 15% in Masked Language Modeling?")."""
    corruption: Literal["bert", "mask"] = "bert"
    """What stands in their place. bert: the mask in 80 of 100, a random token in 10, itself in 10; mask: always the
    mask."""


class MachineSettings(BaseModel):
    """By what it is computed; what is `auto` is chosen by a short probe, which the log explains."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Of the arithmetic; weights are float32 always."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Whether the model is compiled; auto = where the run is long enough to pay for it."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work: each holds the model (ddp) or a part of it (fsdp)."""
    devices: int | None = Field(default=None, gt=0, exclude=True)
    """None = all GPUs of the machine, or one process on the CPU. Not part of the key: the windows of a step are the
    same for any number."""


class PretrainSettings(BaseModel):
    """The model, what it learns, and how long and how fast. What is None is derived from size and budget by published
    rules (models/sizes.py), and the log says so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Literal["tiny", "mini", "small", "medium", "base", "large", "xl"] | None = Field(default=None, exclude=True)
    """A standard name (models/sizes.py) for the five numbers below, each of which may still be given; what enters the
    key are they."""
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
    tied: bool = True
    """Whether the embedding is also the output layer."""
    start: Path | None = None
    """Folder of a model of Hugging Face's (for causal or masked language modelling) to go on from instead of fresh
    weights; it brings its shape and its tokenizer."""

    objective: Literal["next_token", "masked_token"] = "next_token"
    """What is predicted: every token from those before it (GPT), or hidden tokens from all others (BERT)."""
    masking: MaskingSettings = MaskingSettings()
    """For the masked objective."""
    document_mask: bool = False
    """Whether a token sees only its own document, where a window holds several."""
    mixture: dict[str, float] = {}
    """Share of each source that is named here, and of no other; empty = all documents alike."""

    continues: bool = True
    """Whether a later night goes on with the trunk of the night before instead of starting anew."""
    replay: float = Field(default=0.25, ge=0, lt=1)
    """Share of documents of earlier nights in such a night. 5 % keep a model from forgetting a weak shift, a strong one
    needs up to 50 % (Ibrahim et al. 2024, "Simple and Scalable Strategies to Continually Pre-train Large Language
    Models", section 6.1)."""

    tokens: int | None = Field(default=None, gt=0)
    """Tokens to learn from tonight, repetitions counted. None = 20 a weight."""
    batch: int | None = Field(default=None, gt=0)
    """Windows in one update."""
    accumulate: int = Field(default=1, gt=0)
    """Pieces of the batch that are computed one after the other: less memory, same update but for rounding."""
    algorithm: Literal["adamw", "muon"] = "adamw"
    """muon: the hidden matrices by Muon, all else by AdamW."""
    learning_rate: float | None = Field(default=None, gt=0)
    """The peak of the rate."""
    warmup: float | None = Field(default=None, ge=0, le=1)
    """Share of the steps in which the rate rises; a night that continues has none."""
    cooldown: float | None = Field(default=None, ge=0, le=1)
    """Share of the steps, the last ones, in which the rate falls to zero as 1 - sqrt: the branch off the trunk."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Decoupled decay of matrices."""
    spike_deviations: float | None = Field(default=6.0, gt=0)
    """A step whose loss or gradient is so many standard deviations over the last 128 is skipped; None = none is."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Of initial weights and order."""

    machine: MachineSettings = MachineSettings()
    """By what it is computed."""
    checkpoint_every: int | None = Field(default=None, gt=0, exclude=True)
    """Steps between checkpoints, that is, what a kill can cost; None = two minutes. Changes no bit, so it is not part
    of the key."""
    milestone_every: int | None = Field(default=None, gt=0, exclude=True)
    """Checkpoints at multiples of so many steps are kept until the training ends; None = only the newest two."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, values: Any) -> Any:
        """The numbers behind a size's name."""
        name = values.get("size") if isinstance(values, dict) else None
        if name not in SIZES:
            return values
        size = SIZES[name]
        attention = ATTENTION.get(values.get("objective", "next_token"), "causal")
        numbers = {"heads": size.heads, "kv_heads": kv_heads(size.heads, attention)}
        return {**size._asdict(), **numbers, **values}

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        given = self.model_fields_set
        if self.start and (shape := sorted(given & {"size", "layers", "width", "heads", "kv_heads", "tied"})):
            raise ValueError(f"the model in `start` brings its own shape: remove {' and '.join(shape)}, or start")
        if "masking" in given and self.objective != "masked_token":
            raise ValueError("masking is for `objective: masked_token`: set that, or remove masking")
        if any(share <= 0 for share in self.mixture.values()):
            raise ValueError("every share of the mixture must be over 0: leave out the sources that are not wanted")
        if self.batch is not None and self.batch % self.accumulate:
            raise ValueError(f"batch ({self.batch}) must be a multiple of accumulate ({self.accumulate})")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def start_files(self) -> dict[str, str]:
        """BLAKE3 of each file of the model to start from, so that a changed model under the same path is another
        request.

        Raises UserError if there is no model at the path.
        """
        return {} if self.start is None else fingerprints(self.start)


@stage(version=1, libraries=("torch", "pytorch-lightning"), modules=("models.fit",))
def pretrain(
    tokens: Snapshot,
    tokenizer: Artifact,
    previous: Artifact | None,
    settings: PretrainSettings,
    out: Path,
    work: Path,
    cache: Path,
    log: StageLog,
) -> Metrics:
    """Train; `out` receives config.json, model.safetensors (float32), losses.parquet, incidents.json and, where later
    nights may go on, trunk/.

    Args:
        tokens: the corpus.
        tokenizer: of the tokens.
        previous: this stage's output on the first partitions of the same corpus, from whose trunk it goes on.
        settings: what is wanted.
        out: receives the model.
        work: survives a kill.
        cache: what the machine may keep from run to run.
        log: hears of every step.

    Raises UserError for a shape that cannot be and for data, tokenizer and model that do not belong together,
    StageError when the training process fails (see tasks/supervise.py).
    """
    if not shards_of(tokens, "train"):
        raise UserError("There is nothing to train on: the corpus gave no training document.")
    model = shape(settings, tokenizer)
    plan = schedule(settings, model, log)
    known = len(partitions_of(previous.manifest)) if previous else 0
    sources = mix(
        shards_of(tokens[known:], "train"),
        shards_of(tokens[:known], "train"),
        mixture=settings.mixture,
        replay=settings.replay,
        tokens=plan.steps * plan.batch * settings.context_length,
        window=settings.context_length + 1,
    )
    start = model_at(settings.start, settings.start_files) if settings.start else None
    if previous:
        shares = ", ".join(f"{source.weight:.0%} {source.name}" for source in sources)
        log.info(f"goes on from step {previous.metrics['trunk_steps']:,} of {previous.digest[:12]}; reads {shares}")
        start = trunk_of(previous)
    spec = FitSpec(
        model=model,
        data=TokenStream(
            sources=sources,
            digest=snapshot_digest(tokens),
            objective=objective_of(settings, tokenizer),
            document_mask=settings.document_mask,
        ),
        optimisation=Optimisation(
            algorithm=settings.algorithm,
            learning_rate=plan.learning_rate,
            warmup_steps=0 if previous else plan.warmup_steps,
            cooldown_steps=plan.cooldown_steps,
            weight_decay=plan.weight_decay,
            spike_deviations=settings.spike_deviations,
        ),
        steps=plan.steps,
        batch=plan.batch,
        accumulate=settings.accumulate,
        seed=order_seed(settings.seed, previous),
        start=start,
        keep_trunk=settings.continues,
        machine=Machine(**dict(settings.machine)),
        work=work,
        out=out,
        cache=cache,
        checkpoint_every=settings.checkpoint_every,
        milestone_every=settings.milestone_every,
    )
    supervise(spec, log)
    return _metrics(spec, previous)


@dataclass(frozen=True)
class Schedule:
    """How long, in what steps and how fast: as the settings say, else as the rules of models/sizes.py derive."""

    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    cooldown_steps: int
    weight_decay: float


def schedule(settings: PretrainSettings, model: ModelConfig | HubModel, log: StageLog) -> Schedule:
    """The schedule of a training; `log` hears what was derived, and from what.

    Raises UserError where the rules know nothing of the model and the settings leave something to them.
    """
    rules = _rules_for(settings, model, settings.batch)
    if rules.batch % settings.accumulate:  # batch was not given, and the rules know of no pieces
        rules = _rules_for(settings, model, -(-rules.batch // settings.accumulate) * settings.accumulate)
    shares = {"warmup_steps": settings.warmup, "cooldown_steps": settings.cooldown}
    asked: dict[str, Any] = {name: round(rules.steps * share) for name, share in shares.items() if share is not None}
    asked |= {name: value for name in BY_RULE if (value := getattr(settings, name)) is not None}
    for name, why in rules.because.items():
        if name != "steps" and name not in asked:
            log.info(f"{name.replace('_', ' ')} {getattr(rules, name):,}: {why}")
    return Schedule(**{field.name: asked.get(field.name, getattr(rules, field.name)) for field in fields(Schedule)})


def _rules_for(settings: PretrainSettings, model: ModelConfig | HubModel, batch: int | None) -> Derived:
    if isinstance(model, ModelConfig):
        return derived(model, settings.tokens, batch)
    if settings.tokens is None or settings.learning_rate is None or batch is None:
        raise UserError(
            f"The rules that derive tokens, batch and learning_rate do not know a {model.architecture}: give all three."
        )
    steps = max(1, settings.tokens // (batch * model.context_length))
    return Derived(
        tokens=settings.tokens,
        batch=batch,
        steps=steps,
        learning_rate=settings.learning_rate,
        weight_decay=0.1,
        warmup_steps=max(1, steps // 10),
        cooldown_steps=round(0.2 * steps),
        because={
            "weight_decay": "as GPT-3",
            "warmup_steps": "a tenth of the steps",
            "cooldown_steps": "a fifth of the steps (Hägele et al. 2024, section 4)",
        },
    )


def shape(settings: PretrainSettings, tokenizer: Artifact) -> ModelConfig | HubModel:
    """The model that the settings ask for.

    Raises UserError for one that cannot be, and for a model to start from that is none or has another tokenizer.
    """
    attention = ATTENTION[settings.objective]
    if settings.start:
        return starting_model(settings.start, tokenizer, attention, settings.context_length)
    try:
        return ModelConfig.sized(
            attention=attention,
            tied=settings.tied,
            vocabulary=vocabulary_size(tokenizer),
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


def objective_of(settings: PretrainSettings, tokenizer: Artifact) -> NextToken | MaskedToken:
    """What is predicted. Raises UserError if tokens are to be hidden and the tokenizer has no mask."""
    if settings.objective == "next_token":
        return NextToken()
    masking = settings.masking
    return MaskedToken(mask_token=mask_id(tokenizer), rate=masking.rate, corruption=masking.corruption)


def order_seed(seed: int, previous: Artifact | None) -> int:
    """Each night of a trunk reads in an order of its own: the same one would begin with what it began with before."""
    if previous is None:
        return seed
    return int.from_bytes(blake3(f"{seed} {previous.digest}".encode()).digest(8)) >> 1


def weights_in(folder: Path) -> int:
    """Numbers that a saved model has learnt; a tied embedding is stored, and counts, once."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def mean_last_loss(losses: Path) -> float:
    """Mean of the last tenth of the steps: one batch alone is noise."""
    import polars as pl

    column = pl.read_parquet(losses, columns=["loss"])["loss"]
    return float(column.tail(max(1, len(column) // 10)).to_numpy().mean())


def _metrics(spec: FitSpec, previous: Artifact | None) -> Metrics:
    """Of the training. Tokens, and the steps of the trunk, are counted over all nights that went into the model."""
    before = previous.metrics if previous else {"trunk_steps": 0, "trunk_tokens": 0}
    window = spec.batch * spec.model.context_length
    metrics: Metrics = {
        "steps": spec.steps,
        "tokens_seen": before["trunk_tokens"] + spec.steps * window,
        "weights": weights_in(spec.out),
        "final_loss": mean_last_loss(spec.out / "losses.parquet"),
        **count_incidents(spec.out),
    }
    if spec.keep_trunk:
        steps = spec.steps - spec.optimisation.cooldown_steps
        metrics["trunk_steps"] = before["trunk_steps"] + steps
        metrics["trunk_tokens"] = before["trunk_tokens"] + steps * window
    return metrics
