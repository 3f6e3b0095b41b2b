"""How long, in what steps and how fast a model learns: as the settings say, else by a rule that the log names."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from models.spec import ForeignConfig, ModelConfig
from models.text.scaling_rules import COOLDOWN, Derived, derived
from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.training.settings import PretrainSettings

BY_RULE = ("tokens", "batch", "learning_rate", "weight_decay")
"""Settings that a rule gives where the recipe does not; warmup and cooldown are two more, as shares."""


@dataclass(frozen=True)
class Schedule:
    """How long, in what steps and how fast: as the settings say, else as the rules of models/text/scaling_rules.py
    derive."""

    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    cooldown_steps: int
    weight_decay: float


def schedule(
    settings: PretrainSettings, model: ModelConfig | ForeignConfig, log: StageLog, goes_on: bool = False
) -> Schedule:
    """The schedule of a training; `log` hears what was derived, and from what. One that goes on with a trunk is warm.

    Raises UserError where the rules know nothing of the model and the settings leave something to them.
    """
    rules = _rules_for(settings, model, settings.batch)
    if rules.batch % settings.accumulate:  # batch was not given, and the rules know of no pieces
        rules = _rules_for(settings, model, -(-rules.batch // settings.accumulate) * settings.accumulate)
    shares = {"warmup_steps": settings.warmup, "cooldown_steps": settings.cooldown}
    asked: dict[str, Any] = {name: round(rules.steps * share) for name, share in shares.items() if share is not None}
    asked |= {name: value for name in BY_RULE if (value := getattr(settings, name)) is not None}
    if goes_on:
        asked["warmup_steps"] = 0
    for name, why in rules.because.items():
        if name != "steps" and name not in asked:
            log.info(f"{name.replace('_', ' ')} {getattr(rules, name):,}: {why}")
    return Schedule(**{field.name: asked.get(field.name, getattr(rules, field.name)) for field in fields(Schedule)})


def derived_settings(settings: PretrainSettings, model: ModelConfig | ForeignConfig, goes_on: bool) -> list[str]:
    """What `schedule` would derive, a sentence a setting, as its log would hear them."""
    said: list[str] = []

    class Listener(StageLog):
        def info(self, message: str) -> None:
            said.append(message)

    schedule(settings, model, Listener(), goes_on)
    return said


def _rules_for(settings: PretrainSettings, model: ModelConfig | ForeignConfig, batch: int | None) -> Derived:
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
        cooldown_steps=round(COOLDOWN * steps),
        because={
            "weight_decay": "as GPT-3",
            "warmup_steps": "a tenth of the steps",
            "cooldown_steps": "a fifth of the steps (Hägele et al. 2024, section 4)",
        },
    )
