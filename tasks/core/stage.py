"""The stage contract: a pure function from artifacts and settings to a folder of files.

    @stage(version=1)
    def deduplicate(documents: Artifact, settings: DeduplicateSettings, out: Path, log: StageLog) -> Metrics: ...

    deduplicate(documents, settings, out, StageLog())   # plainly: just the function, as unit tests call it
    deduplicate.run(documents, settings)                # in a flow: reused, resumed or run, committed, recorded

The signature is the declaration. Parameters annotated `Artifact` (or `tuple[Artifact, ...]`, or a frozen dataclass of
them) are inputs, pydantic models (best of the class in models/settings.py) are settings; both enter the key. `out` is
an empty folder to write into; a stage that also asks for `work` gets a folder that outlives a kill until the commit,
one that asks for `batches` (tasks/core/batches.py) a way to divide its work among the workers of the recipe's engine,
one that asks for `cache` a folder that all runs of a home share, for what may be lost at any time. What `.run` does is
decided by the context that a flow opened: a run executes (`tasks/core/run.py`), a plan explains.
"""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from models.settings import for_key
from tasks.core.artifact import Artifact, Reference, Request
from tasks.core.errors import UserError
from tasks.core.fingerprint import Fingerprint, fingerprint
from tasks.core.store import Store

Metrics = dict[str, int | float]
GIVEN = ("out", "work", "batches", "cache", "log")
EARLIER_INTAKE = "rule: what an earlier night took in stands"
Input = Artifact | tuple[Artifact, ...] | None


@dataclass(frozen=True)
class Forecast:
    """What can be said of a stage's output before it runs."""

    sentences: tuple[str, ...] = ()
    """What rules would decide where the recipe does not, each with the rule."""
    metrics: Metrics = field(default_factory=dict)
    """Those of its figures that are known already."""


class StageLog:
    """Where a stage reports to while it works. This base is silent: what plain calls and unit tests use."""

    def info(self, message: str) -> None:
        """Say something that a person would want to know, in one line."""

    def metrics(self, values: dict[str, float], step: int | None = None, time_ms: int | None = None) -> None:
        """Record figures of a series; a step that the run has recorded before is not recorded again."""

    def progress(self, done: float, total: float, unit: str) -> None:
        """Say how far the work is; a total of 0 means that it is not known yet."""


@dataclass(frozen=True)
class StageCall:
    """One stage asked for in a flow: which, under which name, on what."""

    stage: "Stage"
    node: str
    """The stage's name in this run: its own, or another where a flow runs it twice."""
    arguments: dict[str, Any]
    settled: bool = False
    """Whether it belongs to an earlier night: taken as it stands, without a word, if it stands."""

    @property
    def inputs(self) -> dict[str, Input]:
        """Artifacts by the name of their parameter, or of the field of it."""
        found: dict[str, Input] = {}
        for name, value in self.arguments.items():
            if name in self.stage.bundles:
                found |= {inner.name: getattr(value, inner.name) for inner in fields(value)}
            elif name in self.stage.input_names:
                found[name] = value
        return found

    def input_artifacts(self) -> Iterator[tuple[str, Artifact]]:
        """(parameter name, artifact) of every input; those of a parameter that takes several are numbered from 0."""
        for name, given in self.inputs.items():
            if isinstance(given, Artifact):
                yield name, given
            else:
                yield from ((f"{name}.{number}", artifact) for number, artifact in enumerate(given or ()))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that enter the key, as plain JSON values, by the name of their parameter."""
        return {name: for_key(value) for name, value in self._settings()}

    def names(self, settings: dict[str, Any]) -> set[str]:
        """The words of the request, among which those stand that choose entries of tables (models/named.py): all
        strings in its settings, or what a long one says of itself."""
        words = set(self.stage.names)
        for name, value in self._settings():
            words.update(value.chosen_names() if hasattr(value, "chosen_names") else _strings(settings[name]))
        return words

    def accepts_old(self, asked_by: str | None) -> str | None:
        """Who accepts an old output although code or libraries have changed since: whoever asked for it, or the rule on
        what earlier nights took in; None: nobody."""
        return asked_by or (EARLIER_INTAKE if self.settled and self.stage.external else None)

    def request(self) -> Request:
        """What decides the output; its hash is the key."""
        settings = self.settings
        found = self.stage.fingerprint(self.names(settings))
        return Request(
            stage=self.stage.name,
            version=self.stage.version,
            inputs={name: _referenced(given) for name, given in self.inputs.items()},
            settings=settings,
            code=found.code,
            libraries=found.libraries,
        )

    def _settings(self) -> Iterator[tuple[str, BaseModel]]:
        for name, value in self.arguments.items():
            if name not in self.stage.input_names | self.stage.bundles:
                yield name, value


class Context(Protocol):
    """What a flow opened around its stages."""

    store: Store

    def call(self, call: StageCall) -> Artifact:
        """Answer for a stage: make or find its artifact (a run), or say what would become of it (a plan)."""

    def write(self, path: Path, content: bytes) -> None:
        """Keep a fact of the flow's own beside the artifacts; a plan keeps nothing."""


context: ContextVar[Context] = ContextVar("context")


known_stages: dict[str, "Stage"] = {}
"""Every stage that has been defined in this process, by name."""


def read_code() -> None:
    """Read the code of all stages, before the threads of a night begin: what they ask for later is then known."""
    for stage in known_stages.values():
        stage.fingerprint()


def check_stage_names(names: Iterable[str]) -> None:
    """Raises UserError for a name that no stage has; it says the near one."""
    for name in names:
        if name not in known_stages:
            near = difflib.get_close_matches(name, known_stages, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the stages are {', '.join(sorted(known_stages))}"
            raise UserError(f"there is no stage {name!r} to keep; {hint}")


class Stage:
    """A stage made by the decorator `stage`."""

    def __init__(
        self,
        function: Callable[..., Metrics],
        version: int,
        runs: tuple[str, ...],
        names: tuple[str, ...],
        files: tuple[Path, ...],
        external: bool,
        foretell: Callable[..., Forecast] | None,
        summary: Callable[[str, Any], str | None] | None,
    ) -> None:
        self.function = function
        self.name = function.__name__
        self.version = version
        self.runs = runs
        self.names = names
        self.files = files
        self.external = external
        self.foretell = foretell or (lambda **_: Forecast())
        self.summary = summary or (lambda name, value: None)
        known_stages[self.name] = self
        self.__doc__ = function.__doc__
        self.signature = inspect.signature(function)
        hints = get_type_hints(function)
        wanted = [name for name in self.signature.parameters if name not in GIVEN]
        self.input_names = frozenset(name for name in wanted if _is_artifact(hints[name]))
        self.bundles = frozenset(name for name in wanted if _is_bundle(hints[name]))
        for name in wanted:
            is_settings = isinstance(hints[name], type) and issubclass(hints[name], BaseModel)
            if name not in self.input_names | self.bundles and not is_settings:
                raise TypeError(
                    f"stage {self.name}: parameter {name} is {hints[name]}, but only artifacts and pydantic models "
                    "(and dataclasses of artifacts) can enter a key; make it one of them"
                )
        self.keeps_work = "work" in self.signature.parameters
        self.in_batches = "batches" in self.signature.parameters
        self.caches = "cache" in self.signature.parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Metrics:
        """Call the stage's function plainly: no key, no store, no record."""
        return self.function(*args, **kwargs)

    def run(self, *args: Any, node: str | None = None, settled: bool = False, **kwargs: Any) -> Artifact:
        """Ask the flow's context for this stage's artifact on these inputs and settings.

        Args:
            node: the name of this use of the stage, where a flow uses it more than once.
            settled: whether this is the work of an earlier night, which is not told again where it stands.

        Raises:
            LookupError: no run or plan is open.
        """
        wanted = self.signature.replace(
            parameters=[value for name, value in self.signature.parameters.items() if name not in GIVEN]
        )
        bound = wanted.bind(*args, **kwargs)
        bound.apply_defaults()
        return context.get().call(StageCall(self, node or self.name, dict(bound.arguments), settled))

    def fingerprint(self, names: Collection[str] | None = None) -> Fingerprint:
        """The code that this stage consists of, and the libraries that it uses.

        Args:
            names: what a request names, and with it entries of tables; None: all of them count.
        """
        module = self.function.__module__
        root = Path(inspect.getfile(self.function)).resolve().parents[module.count(".")]
        return fingerprint((f"{module}:{self.function.__name__}", *self.runs), root, names, self.files)


def stage(
    *,
    version: int,
    runs: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    files: tuple[Path, ...] = (),
    external: bool = False,
    foretell: Callable[..., Forecast] | None = None,
    summary: Callable[[str, Any], str | None] | None = None,
) -> Callable[[Callable[..., Metrics]], Stage]:
    """Make a stage of a function.

    Args:
        version: raised by hand when outputs change for a reason that the code fingerprint cannot see.
        runs: what of the project, as `module:symbol`, the stage has a carrier run in a child process.
        names: entries of tables (models/named.py) that it uses whatever its settings say.
        files: files that are no code and decide its output, or folders of them.
        external: whether it reads what lies outside the store and may be gone tomorrow: what an earlier night took in
            then stands, although code or libraries have changed since.
        foretell: what a plan can say of its output; takes the stage's arguments, of which artifacts may be promises.
        summary: one line for all that differs in an argument, given its name and value; None: each difference is told.
    """
    return lambda function: Stage(function, version, runs, names, files, external, foretell, summary)


def _strings(value: Any) -> Iterator[str]:
    """All strings in a plain JSON value, names of fields among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _referenced(given: Input) -> Reference | list[Reference] | None:
    if isinstance(given, Artifact):
        return given.reference
    return None if given is None else [artifact.reference for artifact in given]


def _is_bundle(hint: Any) -> bool:
    """Whether it is a dataclass whose fields are artifacts."""
    return is_dataclass(hint) and not _is_artifact(hint) and all(map(_is_artifact, get_type_hints(hint).values()))


def _is_artifact(hint: Any) -> bool:
    if isinstance(hint, UnionType) or get_origin(hint) is tuple:
        return any(_is_artifact(part) for part in get_args(hint) if part not in (type(None), ...))
    return isinstance(hint, type) and issubclass(hint, Artifact)
