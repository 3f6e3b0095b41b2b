"""The plan: what a run would reuse, resume or run, stage by stage, and the exact field that makes the difference.

A plan walks through the same flows as a run, with a context that looks keys up instead of executing. Where a stage
would run, its output is unknown, so the stages after it are planned on the promise of an output: they run unless it
comes out equal.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.spec import HubModel, ModelConfig
from tasks.core.run import flat
from tasks.core.stage import Call
from tasks.core.store import Artifact, Request, Store, find_damage, run_of
from tasks.training.pretrain import fresh_shape, shape
from tasks.training.schedule import foretell
from tasks.training.settings import PretrainSettings

PROMISED = "?"
"""Stands where the digest of an output that does not exist yet would stand."""
SHOWN_DIFFERENCES = 4


@dataclass(frozen=True)
class Step:
    """What would happen to one stage, and why."""

    node: str
    stage: str
    action: str
    """reuse, run, resume (from a checkpoint), or depends (runs unless its inputs come out equal)."""
    why: list[str]
    derived: list[str] = field(default_factory=list)
    """The settings that the recipe leaves to published rules: what they would be, and by which."""


@dataclass
class Plan:
    """The context of a flow that is only looked at."""

    store: Store
    steps: list[Step] = field(default_factory=list)
    vocabulary: int | None = None
    """Tokens of the tokenizer that would be trained."""

    def call(self, call: Call) -> Artifact:
        """Say what would happen; the answer is the artifact that stands, or a promise of one."""
        request = call.request()
        record = self.store.record(request)
        if record is None and call.accepts_old(None):
            record = self.store.acceptable(request)
        if record is not None:
            artifact = self.store.get(record.reference)
            damage = find_damage(artifact, sampled_bytes=0)
            if damage is None:
                if not call.settled:
                    self._step(call, "reuse", [])
                return artifact
            self._step(call, "run", [f"its artifact is damaged: {damage}"])
        else:
            promised = [name for name, artifact in call.input_artifacts() if artifact.digest == PROMISED]
            why = self._differences(call, request, promised)
            if promised and not why:
                self._step(call, "depends", [f"runs unless {name} comes out equal" for name in promised])
            else:
                work = self.store.scratch(request.key) / "work"
                resumes = not promised and work.is_dir() and any(work.iterdir())
                self._step(call, "resume" if resumes else "run", why or ["it has not run yet"])
        return Artifact(call.stage.name, PROMISED, Path(PROMISED))

    def write(self, path: Path, content: bytes) -> None:
        """Nothing: a plan leaves no trace."""

    def _step(self, call: Call, action: str, why: list[str]) -> None:
        derived = [] if action == "reuse" else self._derived(call)
        self.steps.append(Step(call.node, call.stage.name, action, why, derived))

    def _derived(self, call: Call) -> list[str]:
        """What rules would give a pre-training; nothing where its model is not known yet."""
        settings, tokenizer = call.arguments.get("settings"), call.arguments.get("tokenizer")
        if not isinstance(settings, PretrainSettings) or tokenizer is None:
            return []
        model: ModelConfig | HubModel
        if tokenizer.digest != PROMISED:
            model = shape(settings, tokenizer)
        elif self.vocabulary and not settings.start:
            model = fresh_shape(settings, self.vocabulary)
        else:
            return []
        return foretell(settings, model, goes_on=call.arguments["previous"] is not None)

    def _differences(self, call: Call, wanted: Request, promised: list[str]) -> list[str]:
        """What differs from the most similar request that has an answer; promised inputs count as equal."""
        candidates = [differences(record.request, wanted, promised) for record in self.store.records(wanted.stage)]
        if not candidates:
            return [] if promised else ["it has not run yet"]
        nearest = _summarised(call, min(candidates, key=len))
        more = len(nearest) - SHOWN_DIFFERENCES
        return nearest[:SHOWN_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])


def _summarised(call: Call, differences: list[str]) -> list[str]:
    """One line for all that differs in an argument that can say itself what it holds, such as tonight's inventory."""
    for name, argument in call.arguments.items():
        others = [difference for difference in differences if not difference.startswith(f"{name}.")]
        if hasattr(argument, "summary") and len(others) < len(differences):
            differences = [f"{name}: {argument.summary()}", *others]
    previous = call.arguments.get("previous")
    if isinstance(previous, Artifact):
        others = [difference for difference in differences if not difference.startswith("input previous:")]
        if len(others) < len(differences):
            differences = [f"goes on from the trunk of night {run_of(previous)}", *others]
    return differences


def differences(had: Request, wanted: Request, ignored_inputs: list[str]) -> list[str]:
    """What differs between two requests of one stage: symbols and files of the code by name, other fields as
    `old -> new`."""
    before, after = _fields(had), _fields(wanted)
    ignored = {f"input {name}" for name in ignored_inputs}
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    found = [
        f"{name}: {_short(before.get(name))} -> {_short(after.get(name))}" for name in names if name not in ignored
    ]
    return found + _differing_code(had.code, wanted.code)


def _differing_code(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What changed first: it is the reason for most of what was added or removed."""
    by_kind = {
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
    }
    return [f"code of {_some(names)} {kind}" for kind, names in by_kind.items() if names]


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN_DIFFERENCES
    return ", ".join(names[:SHOWN_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")


def _fields(request: Request) -> dict[str, Any]:
    return {
        "version": request.version,
        **{f"input {name}": given.digest[:12] for name, given in request.references()},
        **flat(request.settings, into_lists=True),
        **{f"library {name}": version for name, version in request.libraries.items()},
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def make_plan(recipe_path: Path, home: Path) -> list[Step]:
    """Walk through the night of a recipe without running anything.

    Raises:
        UserError: something that the recipe asks for cannot be (flows/checks.py).
    """
    from flows.checks import checked_recipe
    from flows.recipe import TextRecipe

    recipe = checked_recipe(recipe_path)  # before Prefect is imported, which takes longer than all checks
    from flows.nights.nightly import night
    from tasks.core.stage import context

    trained = recipe.tokenizer if isinstance(recipe, TextRecipe) and recipe.tokenizer.path is None else None
    plan = Plan(Store(home), vocabulary=trained.vocabulary if trained else None)
    token = context.set(plan)
    try:
        night(recipe, call=lambda flow, *arguments: flow.fn(*arguments))
    finally:
        context.reset(token)
    return plan.steps
