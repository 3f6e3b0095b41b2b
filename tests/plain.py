"""The data stages of a recipe in this process, on a real store, without a Prefect server: for kills and measurements.

    python -m tests.plain RECIPE HOME [LOG]

Prints the digest of every stage as a JSON object. LOG gets a line whenever a batch begins and another when it is
done; a batch that was done before does not begin.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tasks.core import batches
from tasks.core.artifact import Artifact
from tasks.core.journal import Journal
from tasks.core.run import Run, StageOutcome
from tasks.core.stage import StageCall, context
from tasks.core.store import Store
from tasks.core.versions import open_store


class SilentView:
    """Shows nothing."""

    def began(self, node: str, action: str) -> None: ...
    def said(self, node: str, message: str) -> None: ...
    def progressed(self, node: str, done: float, total: float, unit: str) -> None: ...
    def ended(self, outcome: StageOutcome) -> None: ...


class PlainRun(Run):
    """A run whose stages are no Prefect tasks and whose batches are threads."""

    def __init__(self, home: Path) -> None:
        open_store(home)
        super().__init__("plain", Store(home), Journal(home / "journals" / "plain.jsonl"), SilentView(), submit=None)

    def call(self, call: StageCall) -> Artifact:
        return (call.settled and self._settled(call)) or self._recorded(call)


@contextmanager
def opened(run: Run) -> Iterator[Run]:
    """Make the run the context of the stages that the block asks for."""
    token = context.set(run)
    try:
        yield run
    finally:
        context.reset(token)
        run.journal.close()


def run_corpus(recipe: Path, home: Path, submit: batches.Submit | None = None) -> list[StageOutcome]:
    """Run the flow `corpus` and return what its stages did; their batches are done by `submit`, or by threads."""
    os.environ["NIGHTSCHOOL_HOME"] = str(home)
    from flows.kinds.corpus import corpus
    from flows.recipe import TextRecipe, load_recipe

    asked = load_recipe(recipe)
    assert isinstance(asked, TextRecipe)
    run = PlainRun(home)
    run.submit = submit
    with opened(run):
        corpus.fn(asked)
    return run.outcomes


def _logged(function: batches.BatchFunction, item: Any, folder: Path, log: Path) -> batches.Facts:
    name = "/".join(folder.parts[-5:])

    def write(line: str) -> None:
        with log.open("a") as file:
            file.write(f"{line} {name}\n")

    def told(item: Any, aside: Path) -> batches.Facts:
        write("begun")
        facts = function(item, aside)
        write("done")
        return facts

    return _do_batch(told, item, folder)


_do_batch = batches.do_batch


def main() -> None:
    recipe, home, *log = map(Path, sys.argv[1:])
    if log:
        batches.do_batch = partial(_logged, log=log[0])
    print(json.dumps({outcome.node: outcome.digest for outcome in run_corpus(recipe, home)}))


if __name__ == "__main__":
    main()
