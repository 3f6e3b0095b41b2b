"""Teaches a model the language of the corpus over the tokenized shards: a new one, one from elsewhere, or last night's.

Night after night the trunk goes on at a constant rate, and what leaves the house is a short branch off it with a
falling rate (Hu et al. 2024, "MiniCPM": a trunk can be continued with new data where a finished schedule
cannot). A night then costs the tokens of that night, whatever was learnt before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from models.learn.incidents import read_incidents
from models.named import ByName
from models.spec import FitSpec, ForeignConfig, MaskedToken, ModelConfig, NextToken, TokenStream
from tasks.core.artifact import Artifact, Promise, run_of
from tasks.core.errors import UserError
from tasks.core.stage import Forecast, Metrics, StageLog, stage
from tasks.corpus.snapshot import Snapshot, shards_of, snapshot_digest
from tasks.tokens.vocabulary import count_ids, load_tokenizer, mask_id
from tasks.training.mixing import mix
from tasks.training.schedule import derived_settings, schedule
from tasks.training.settings import ATTENTION, PretrainSettings
from tasks.training.starting_model import model_at, partitions_of, starting_config, trunk_of
from tasks.training.supervise import supervise


def foretell(tokens: Snapshot, tokenizer: Artifact, previous: Artifact | None, settings: PretrainSettings) -> Forecast:
    """What published rules would derive; nothing where the model is not known yet."""
    if not isinstance(tokenizer, Promise):
        model = shape(settings, tokenizer)
    elif settings.start is None and "vocabulary" in tokenizer.metrics:
        model = fresh_shape(settings, int(tokenizer.metrics["vocabulary"]))
    else:
        return Forecast()
    return Forecast(sentences=tuple(derived_settings(settings, model, goes_on=previous is not None)))


def summary(name: str, value: object) -> str | None:
    """From which night's trunk it goes on."""
    if name != "previous" or not isinstance(value, Artifact):
        return None
    return f"goes on from the trunk of night {run_of(value)}"


@stage(version=1, runs=("models.fit:fit",), foretell=foretell, summary=summary)
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

    Raises UserError for data, tokenizer and model that do not belong together,
    StageError when the training process fails (see tasks/training/supervise.py).
    """
    if not shards_of(tokens, "train"):
        raise UserError("There is nothing to train on: the corpus gave no training document.")
    model = shape(settings, tokenizer)
    plan = schedule(settings, model, log, goes_on=previous is not None)
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
        optimisation=plan.optimisation,
        steps=plan.steps,
        batch=plan.batch,
        accumulate=settings.accumulate,
        seed=order_seed(settings.seed, previous),
        start=start,
        keep_trunk=settings.continues,
        machine=settings.machine,
        work=work,
        out=out,
        cache=cache,
        checkpoint_every=settings.checkpoint_every,
        milestone_every=settings.milestone_every,
    )
    supervise(spec, log)
    return _metrics(spec, previous)


def shape(settings: PretrainSettings, tokenizer: Artifact) -> ModelConfig | ForeignConfig:
    """The model that the settings ask for.

    Raises UserError for a model to start from that is none or has another tokenizer.
    """
    if settings.start:
        return starting_config(
            settings.start, load_tokenizer(tokenizer), ATTENTION[settings.objective], settings.context_length
        )
    return fresh_shape(settings, count_ids(load_tokenizer(tokenizer)))


def fresh_shape(settings: PretrainSettings, tokens: int) -> ModelConfig:
    """The new model that the settings ask for, over a tokenizer of so many tokens."""
    return ModelConfig.sized(
        attention=ATTENTION[settings.objective],
        tied=settings.tied,
        vocabulary=-(-tokens // 64) * 64,  # rows of the embedding, in multiples that the matrix units like
        context_length=settings.context_length,
        layers=settings.layers,
        width=settings.width,
        heads=settings.heads,
        kv_heads=settings.kv_heads,
    )


def objective_of(settings: PretrainSettings, tokenizer: Artifact) -> NextToken | MaskedToken:
    """What is predicted. Raises UserError if tokens are to be hidden and the tokenizer has no mask."""
    return OBJECTIVES[settings.objective](settings, tokenizer)


def _next_token(settings: PretrainSettings, tokenizer: Artifact) -> NextToken:
    return NextToken()


def _masked_token(settings: PretrainSettings, tokenizer: Artifact) -> MaskedToken:
    return MaskedToken(mask_token=mask_id(tokenizer), **settings.masking.model_dump())


OBJECTIVES: ByName[Callable[[PretrainSettings, Artifact], NextToken | MaskedToken]] = {
    "next_token": _next_token,
    "masked_token": _masked_token,
}
"""What tells the training process the objective, by its name."""


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
    """The training's figures. Tokens, and the steps of the trunk, are counted over all nights that went into the
    model."""
    before = previous.metrics if previous else {"trunk_steps": 0, "trunk_tokens": 0}
    window = spec.batch * spec.model.context_length
    kinds = [incident.kind for incident in read_incidents(spec.out)]
    metrics: Metrics = {
        "steps": spec.steps,
        "tokens_seen": before["trunk_tokens"] + spec.steps * window,
        "weights": weights_in(spec.out),
        "final_loss": mean_last_loss(spec.out / "losses.parquet"),
        "skipped_steps": kinds.count("skip"),
        "rollbacks": kinds.count("rollback"),
    }
    if spec.keep_trunk:
        steps = spec.trunk_step
        metrics["trunk_steps"] = before["trunk_steps"] + steps
        metrics["trunk_tokens"] = before["trunk_tokens"] + steps * window
    return metrics
