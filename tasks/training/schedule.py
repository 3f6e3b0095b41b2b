"""How long, in what steps and how fast a model learns: as the settings say, else by a rule that the log names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from models.named import ByName
from models.spec import ForeignConfig, ModelConfig, Optimisation
from models.text.scaling_rules import COOLDOWN, Derived, derived
from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.training.settings import PretrainSettings

SHARES = {"warmup_steps": "warmup", "cooldown_steps": "cooldown"}
"""Numbers of steps that the settings give as shares of all steps, by the setting."""


@dataclass(frozen=True)
class Schedule:
    """How long, in what steps and how fast."""

    steps: int
    batch: int
    """Windows an update."""
    optimisation: Optimisation


def schedule(
    settings: PretrainSettings, model: ModelConfig | ForeignConfig, log: StageLog, goes_on: bool = False
) -> Schedule:
    """The schedule of a training; `log` hears what was derived, and from what. One that goes on with a trunk is warm.

    Raises UserError where the rules know nothing of the model and the settings leave something to them.
    """
    rules = _rules_for(settings, model, settings.batch)
    if rules.batch % settings.accumulate:  # batch was not given, and the rules know of no pieces
        rules = _rules_for(settings, model, -(-rules.batch // settings.accumulate) * settings.accumulate)
    asked: dict[str, Any] = {name: getattr(settings, name) for name in ("learning_rate", "weight_decay")}
    for name, share in SHARES.items():
        asked[name] = None if (part := getattr(settings, share)) is None else round(rules.steps * part)
    if goes_on:
        asked["warmup_steps"] = 0
    given = {name: value for name, value in asked.items() if value is not None}
    known = given | {name: value for name in ("tokens", "batch") if (value := getattr(settings, name)) is not None}
    for name, why in rules.because.items():
        if name != "steps" and name not in known:
            value = getattr(rules if hasattr(rules, name) else rules.optimisation, name)
            log.info(f"{name.replace('_', ' ')} {value:,}: {why}")
    chosen = {"algorithm": settings.algorithm, "spike_deviations": settings.spike_deviations}
    return Schedule(rules.steps, rules.batch, rules.optimisation.model_copy(update=given | chosen))


def derived_settings(settings: PretrainSettings, model: ModelConfig | ForeignConfig, goes_on: bool) -> list[str]:
    """What `schedule` would derive, a sentence a setting, as its log would hear them."""
    said: list[str] = []

    class Listener(StageLog):
        def info(self, message: str) -> None:
            said.append(message)

    schedule(settings, model, Listener(), goes_on)
    return said


def _rules_for(settings: PretrainSettings, model: ModelConfig | ForeignConfig, batch: int | None) -> Derived:
    return RULES.get(model.family, _without_laws)(settings, model, batch)


def _by_laws(settings: PretrainSettings, model: ModelConfig, batch: int | None) -> Derived:
    return derived(model, settings.tokens, batch)


def _without_laws(settings: PretrainSettings, model: ModelConfig | ForeignConfig, batch: int | None) -> Derived:
    """What can be said without a law of the model's size."""
    if settings.tokens is None or settings.learning_rate is None or batch is None:
        raise UserError(
            f"The rules that derive tokens, batch and learning_rate do not know a {model.architecture}: give all three."
        )
    steps = max(1, settings.tokens // (batch * model.context_length))
    return Derived(
        tokens=settings.tokens,
        batch=batch,
        steps=steps,
        optimisation=Optimisation(
            learning_rate=settings.learning_rate,
            weight_decay=0.1,
            warmup_steps=max(1, steps // 10),
            cooldown_steps=round(COOLDOWN * steps),
        ),
        because={
            "weight_decay": "as GPT-3",
            "warmup_steps": "a tenth of the steps",
            "cooldown_steps": "a fifth of the steps (Hägele et al. 2024, section 4)",
        },
    )


RULES: ByName[Callable[[PretrainSettings, Any, int | None], Derived]] = {"transformer": _by_laws}
"""What derives a training's pace from the model's size, by family."""
