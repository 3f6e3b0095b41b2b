"""The stage contract: a pure function from artifacts and settings to a folder of files.

    @stage(version=1, libraries=("polars",))
    def deduplicate(documents: Artifact, settings: DeduplicateSettings, out: Path, log: StageLog) -> Metrics: ...

    deduplicate(documents, settings, out, StageLog())   # plainly: just the function, as unit tests call it
    deduplicate.run(documents, settings)                # in a flow: reused, resumed or run, committed, recorded

The signature is the declaration. Parameters annotated `Artifact` (or `tuple[Artifact, ...]`) are inputs, pydantic
models are settings; both enter the key. `out` is an empty folder to write into; a stage that also asks for `work` gets
a folder that outlives a kill until the commit, one that asks for `batches` (tasks/core/batches.py) a way to divide its
work among the workers of the recipe's engine, one that asks for `cache` a folder that all runs of a home share, for
what may be lost at any time. What `.run` does is decided by the context that a flow opened: a run
executes (`tasks/core/run.py`), a plan explains.
"""

import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from tasks.core.fingerprint import code_fingerprint, library_versions
from tasks.core.store import Artifact, Reference, Request, Store

Metrics = dict[str, int | float]
GIVEN = ("out", "work", "batches", "cache", "log")
Input = Artifact | tuple[Artifact, ...] | None


class StageLog:
    """Where a stage reports to while it works. This base is silent: what plain calls and unit tests use."""

    def info(self, message: str) -> None:
        """Say something that a person would want to know, in one line."""

    def metrics(self, values: dict[str, float], step: int | None = None, time_ms: int | None = None) -> None:
        """Record figures of a series; a step that the run has recorded before is not recorded again."""

    def progress(self, done: float, total: float, unit: str) -> None:
        """Say how far the work is; a total of 0 means that it is not known yet."""


@dataclass(frozen=True)
class Call:
    """One stage asked for in a flow: which, under which name, on what."""

    stage: "Stage"
    node: str
    """The stage's name in this run: its own, or another where a flow runs it twice."""
    arguments: dict[str, Any]
    settled: bool = False
    """Whether it belongs to an earlier night: taken as it stands, without a word, if it stands."""

    @property
    def inputs(self) -> dict[str, Input]:
        return {name: value for name, value in self.arguments.items() if name in self.stage.input_names}

    def input_artifacts(self) -> Iterator[tuple[str, Artifact]]:
        """(parameter name, artifact) of every input; those of a parameter that takes several are numbered from 0."""
        for name, given in self.inputs.items():
            if isinstance(given, Artifact):
                yield name, given
            else:
                yield from ((f"{name}.{number}", artifact) for number, artifact in enumerate(given or ()))

    @property
    def settings(self) -> dict[str, Any]:
        return {
            name: value.model_dump(mode="json")
            for name, value in self.arguments.items()
            if name not in self.stage.input_names
        }

    def request(self) -> Request:
        """What decides the output; its hash is the key."""
        return Request(
            stage=self.stage.name,
            version=self.stage.version,
            inputs={name: _referenced(given) for name, given in self.inputs.items()},
            settings=self.settings,
            code=self.stage.code(),
            libraries=library_versions(self.stage.libraries),
        )


class Context(Protocol):
    """What a flow opened around its stages."""

    store: Store

    def call(self, call: Call) -> Artifact: ...

    def write(self, path: Path, content: bytes) -> None:
        """Keep a fact of the flow's own beside the artifacts; a plan keeps nothing."""


context: ContextVar[Context] = ContextVar("context")


class Stage:
    """A stage made by the decorator `stage`."""

    def __init__(
        self,
        function: Callable[..., Metrics],
        version: int,
        libraries: tuple[str, ...],
        modules: tuple[str, ...],
        external: bool,
    ) -> None:
        self.function = function
        self.name = function.__name__
        self.version = version
        self.libraries = libraries
        self.modules = modules
        self.external = external
        self.__doc__ = function.__doc__
        self.signature = inspect.signature(function)
        hints = get_type_hints(function)
        wanted = [name for name in self.signature.parameters if name not in GIVEN]
        self.input_names = frozenset(name for name in wanted if _is_artifact(hints[name]))
        for name in wanted:
            if name not in self.input_names and not (
                isinstance(hints[name], type) and issubclass(hints[name], BaseModel)
            ):
                raise TypeError(
                    f"stage {self.name}: parameter {name} is {hints[name]}, but only artifacts and pydantic models can "
                    "enter a key; make it one of them"
                )
        self.keeps_work = "work" in self.signature.parameters
        self.in_batches = "batches" in self.signature.parameters
        self.caches = "cache" in self.signature.parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Metrics:
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
        return context.get().call(Call(self, node or self.name, dict(bound.arguments), settled))

    def code(self) -> dict[str, str]:
        """Fingerprints of the modules that this stage consists of."""
        module = self.function.__module__
        root = Path(inspect.getfile(self.function)).resolve().parents[module.count(".")]
        return code_fingerprint(module, root, self.modules)


def stage(
    *, version: int, libraries: tuple[str, ...] = (), modules: tuple[str, ...] = (), external: bool = False
) -> Callable[[Callable[..., Metrics]], Stage]:
    """Make a stage of a function.

    Args:
        version: raised by hand when outputs change for a reason that the code fingerprint cannot see.
        libraries: distributions whose version changes the output.
        modules: project modules that the stage runs without importing them, in a child process.
        external: whether it reads what lies outside the store and may be gone tomorrow: what an earlier night took in
            then stands, although code or libraries have changed since.
    """
    return lambda function: Stage(function, version, libraries, modules, external)


def _referenced(given: Input) -> Reference | list[Reference] | None:
    if isinstance(given, Artifact):
        return given.reference
    return None if given is None else [artifact.reference for artifact in given]


def _is_artifact(hint: Any) -> bool:
    if isinstance(hint, UnionType) or get_origin(hint) is tuple:
        return any(_is_artifact(part) for part in get_args(hint) if part not in (type(None), ...))
    return isinstance(hint, type) and issubclass(hint, Artifact)
