"""The plan: what a run would reuse, resume or run, stage by stage, and the exact field that makes the difference.

A plan walks through the same flows as a run, with a context that looks keys up instead of executing. Where a stage
would run, its output is unknown, so the stages after it are planned on the promise of an output: they run unless it
comes out equal.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.settings import flat
from tasks.core.artifact import Artifact, Promise, Request, find_damage
from tasks.core.stage import StageCall
from tasks.core.store import Store
from tasks.core.versions import open_store, version_of

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

    def call(self, call: StageCall) -> Artifact:
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
                    self.steps.append(Step(call.node, call.stage.name, "reuse", []))
                return artifact
            return self._promise(call, "run", [f"its artifact is damaged: {damage}"])
        promised = [name for name, artifact in call.input_artifacts() if isinstance(artifact, Promise)]
        why = self._differences(call, request, promised)
        if promised and not why:
            return self._promise(call, "depends", [f"runs unless {name} comes out equal" for name in promised])
        work = self.store.scratch(request.key) / "work"
        resumes = not promised and work.is_dir() and any(work.iterdir())
        return self._promise(call, "resume" if resumes else "run", why or ["it has not run yet"])

    def write(self, path: Path, content: bytes) -> None:
        """Nothing: a plan leaves no trace."""

    def _promise(self, call: StageCall, action: str, why: list[str]) -> Promise:
        """Note that the stage would run, and what it would give."""
        forecast = call.stage.foretell(**call.arguments)
        self.steps.append(Step(call.node, call.stage.name, action, why, list(forecast.sentences)))
        return Promise.of_stage(call.stage.name, forecast.metrics)

    def _differences(self, call: StageCall, wanted: Request, promised: list[str]) -> list[str]:
        """What differs from the most similar request that has an answer; promised inputs count as equal."""
        candidates = [differences(record.request, wanted, promised) for record in self.store.records(wanted.stage)]
        if not candidates:
            return [] if promised else ["it has not run yet"]
        nearest = _summarised(call, min(candidates, key=len))
        more = len(nearest) - SHOWN_DIFFERENCES
        return nearest[:SHOWN_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])


def _summarised(call: StageCall, differences: list[str]) -> list[str]:
    """One line for all that differs in an argument of which the stage has a summary, such as tonight's inventory."""
    for name, argument in call.arguments.items():
        others = [told for told in differences if not told.startswith((f"{name}.", f"input {name}:"))]
        if len(others) < len(differences) and (line := call.stage.summary(name, argument)) is not None:
            differences = [line, *others]
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
        **flat(request.settings, lists="all"),
        **{f"library {name}": version for name, version in request.libraries.items()},
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def make_plan(recipe_path: Path, home: Path) -> list[Step]:
    """Walk through the night of a recipe without running anything.

    Raises:
        UserError: something that the recipe asks for cannot be (flows/checks.py), or the home is of a newer version.
    """
    from flows.checks import checked_recipe

    recipe = checked_recipe(recipe_path)  # before Prefect is imported, which takes longer than all checks
    from flows.nights.nightly import night
    from tasks.core.stage import context

    if version_of(home) == 1:  # else there is nothing to bring forward, and a plan leaves no trace
        open_store(home)
    plan = Plan(Store(home))
    token = context.set(plan)
    try:
        night(recipe, call=lambda flow, *arguments: flow.fn(*arguments))
    finally:
        context.reset(token)
    return plan.steps
