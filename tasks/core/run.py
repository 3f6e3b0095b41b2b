"""A run: what happens around a stage's function so that its output is reused, resumed, committed once and recorded.

    fingerprint -> found and verified? reuse it
                -> else take the lease -> run in scratch -> commit -> record

Each stage is a Prefect task: Prefect shows, schedules and retries it, the store decides whether there is work.
Prefect's own cache is off, since its keys hold the flow run's id and miss helper functions.
"""

import contextlib
import errno
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from models.files import write_file
from models.settings import flat
from tasks.core.artifact import SAMPLED_BYTES, Artifact, Request, write_run_record
from tasks.core.batches import Batches, BatchFunction, Future, Submit, do_batch
from tasks.core.errors import StageError, UserError
from tasks.core.journal import Journal, read_journal
from tasks.core.lease import Claim, take
from tasks.core.stage import Input, StageCall, StageLog
from tasks.core.store import Store, Waiver

SHOWN_IN_MLFLOW = (".json", ".html", ".md", ".svg", ".png")
SHOWN_BYTES = 4 << 20
SETTLED_READ_BACK = 0.1


@dataclass(frozen=True)
class StageOutcome:
    """How one stage of a run ended."""

    node: str
    stage: str
    action: str
    """reused, ran, resumed or kept (an old output accepted in spite of changed code)."""
    digest: str
    seconds: float


class View(Protocol):
    """Whoever shows a run to a person."""

    def began(self, node: str, action: str) -> None:
        """Show that a stage begins; called before its function runs, not for an output that is reused."""

    def said(self, node: str, message: str) -> None:
        """Show a line that a stage, or the store on its behalf, has to say."""

    def progressed(self, node: str, done: float, total: float, unit: str) -> None:
        """Show how far a stage is; called while its function runs. A total of 0 means that nobody knows it yet."""

    def ended(self, outcome: StageOutcome) -> None:
        """Show how a stage ended; called once its output is recorded, and not when it fails."""


@dataclass
class Run:
    """The context of a flow that executes its stages. One process at a time has a run open."""

    id: str
    store: Store
    journal: Journal
    view: View
    keep: frozenset[str] = frozenset()
    """Stages whose old output is accepted although their code or libraries have changed."""
    outcomes: list[StageOutcome] = field(default_factory=list)
    failed_node: str | None = None
    submit: Submit | None = field(default_factory=lambda: submit_to_prefect)
    """The engine that does the stages' batches; None: threads of this process."""
    _waited: dict[str, float] = field(default_factory=dict)
    """Seconds that a node has waited for another process, which are no work of its own."""

    def call(self, call: StageCall) -> Artifact:
        """Run the stage as a Prefect task and return its artifact."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        if call.settled and (found := self._settled(call)) is not None:
            return found

        def execute(**inputs: Input) -> Artifact:
            """The inputs are passed so that Prefect draws the edges between its tasks."""
            return self._recorded(call)

        runner = task(name=call.stage.name, task_run_name=call.node, cache_policy=NO_CACHE, persist_result=False)(
            execute
        )
        return runner(**call.inputs)

    def write(self, path: Path, content: bytes) -> None:
        """Replace a file below the home folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)

    def _settled(self, call: StageCall) -> Artifact | None:
        """The output of an earlier night: sizes are compared, and of every tenth artifact the bytes of a file, so that
        a night costs what is new and all the same reads everything back in the course of time."""
        read_back = int(random.random() < SETTLED_READ_BACK)
        standing = self._standing(call, call.request(), lambda said: self.view.said(call.node, said), read_back)
        return standing[1] if standing else None

    def _standing(
        self, call: StageCall, request: Request, warn: Callable[[str], None], sampled_bytes: int | None = SAMPLED_BYTES
    ) -> tuple[str, Artifact] | None:
        """What answers the request, or may be accepted for it, and how it does: reused or kept."""
        found = self.store.find(request, warn, sampled_bytes)
        if found is not None:
            return "reused", found
        asked_by = call.accepts_old("--keep" if call.stage.name in self.keep else None)
        if asked_by is None:
            return None
        kept = self.store.accept(request, asked_by, warn, sampled_bytes)
        if kept is None and asked_by == "--keep":
            warn(f"nothing to keep: no output of {request.stage} differs in its code or libraries only")
        return ("kept", kept) if kept is not None else None

    def _recorded(self, call: StageCall) -> Artifact:
        """Find or make the artifact, and write what happens into the journal."""
        started = time.monotonic()
        request = call.request()
        log = RunLog(self, call.node)
        self._record_start(call, request)
        try:
            action, artifact = self._obtain(call, request, log)
            self._record_output(call.node, request, artifact, action)
        except BaseException as error:
            self.failed_node = call.node
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            self._append_quietly("end", call.node, status=status)
            if is_disk_full(error):
                raise StageError(
                    f"no space is left in {self.store.home} for the stage {call.node}; free some or point "
                    "NIGHTSCHOOL_HOME at a larger disk"
                ) from error
            raise
        worked = time.monotonic() - started - self._waited.pop(call.node, 0.0)
        outcome = StageOutcome(call.node, call.stage.name, action, artifact.digest, worked)
        self.outcomes.append(outcome)
        self.view.ended(outcome)
        return artifact

    def _obtain(self, call: StageCall, request: Request, log: "RunLog") -> tuple[str, Artifact]:
        standing = self._standing(call, request, log.info)
        if standing is not None:
            return standing
        asked = time.monotonic()
        with take(self.store.home / "leases" / request.key, lambda claim: log.info(waiting_for(claim))) as lease:
            self._waited[call.node] = time.monotonic() - asked
            found = self.store.find(request, log.info)  # another process may have made it while we waited
            if found is not None:
                return "reused", found
            scratch = self.store.scratch(request.key)
            work, out = scratch / "work", scratch / f"out-{lease.token}"
            keeps = call.stage.keeps_work or call.stage.in_batches
            resumed = keeps and work.is_dir() and any(work.iterdir())
            with lease.held():
                for leftover in scratch.glob("out-*"):
                    shutil.rmtree(leftover)
                out.mkdir(parents=True)
            given: dict[str, Any] = {"out": out, "log": log}
            if call.stage.keeps_work:
                work.mkdir(exist_ok=True)
                given["work"] = work
            if call.stage.in_batches:
                given["batches"] = Batches(work / "batches", self.submit, log)
            if call.stage.caches:
                given["cache"] = self.store.home / "cache"
            started = time.time()
            self.view.began(call.node, "resume" if resumed else "run")
            try:
                metrics = call.stage.function(**call.arguments, **given)
                artifact = self.store.commit(request, out, metrics, lease.held)
            except BaseException:
                shutil.rmtree(out, ignore_errors=True)  # its own alone: another process may have succeeded this one
                if not keeps:
                    with contextlib.suppress(StageError, OSError), lease.held():
                        shutil.rmtree(scratch)
                raise
            with lease.held():
                shutil.rmtree(scratch)
                write_run_record(artifact, self.id, call.node, started)
            return "resumed" if resumed else "ran", artifact

    def _record_start(self, call: StageCall, request: Request) -> None:
        tags = {"nightschool.stage": request.stage, "nightschool.key": request.key}
        self.journal.append("start", call.node, name=call.node, tags=tags)
        self.journal.append("params", call.node, values=flat(request.settings))
        for name, artifact in call.input_artifacts():
            self.journal.append(
                "input",
                call.node,
                name=artifact.stage,
                digest=artifact.digest,
                source=artifact.path.resolve().as_uri(),
                source_type="local",
                tags={"nightschool.parameter": name},
            )

    def _record_output(self, node: str, request: Request, artifact: Artifact, action: str) -> None:
        record = self.store.record(request)
        waiver = record.waiver if record is not None else None
        tags = {
            "nightschool.action": action,
            "nightschool.output.digest": artifact.digest,
            "nightschool.output.path": str(artifact.path.resolve()),
            **({"nightschool.waived": waived_in_words(waiver)} if waiver else {}),
        }
        self.journal.append("tags", node, values=tags)
        if artifact.metrics:
            values = {name: float(value) for name, value in artifact.metrics.items()}
            self.journal.append("metrics", node, values=values, step=0, at=time.time_ns() // 1_000_000)
        for path in sorted(artifact.path.rglob("*")):
            if path.suffix in SHOWN_IN_MLFLOW and path.is_file() and path.stat().st_size <= SHOWN_BYTES:
                to = path.parent.relative_to(artifact.path).as_posix()
                self.journal.append("artifact", node, path=str(path.resolve()), to="" if to == "." else to)
        self.journal.append("end", node, status="FINISHED")

    def _append_quietly(self, kind: str, node: str, **payload: Any) -> None:
        """Record what can be recorded while an error is on its way; on a full disk the error itself matters more."""
        with contextlib.suppress(OSError):
            self.journal.append(kind, node, **payload)


def submit_to_prefect(function: BatchFunction, item: Any, folder: Path) -> Future:
    """Give a batch to the task runner of the flow around us: threads, Dask or Ray, as the recipe's `engine` says."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    name = f"{folder.parent.name} {int(folder.name)}"
    runner = task(name=folder.parent.name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(do_batch)
    return runner.submit(function, item, folder)


class RunLog(StageLog):
    """A stage's reports, written to the journal and shown to whoever watches."""

    def __init__(self, run: Run, node: str) -> None:
        self.run = run
        self.node = node
        self._last_step = max(
            (
                record.payload["step"]
                for record in read_journal(run.journal.path)
                if record.kind == "metrics" and record.node == node
            ),
            default=0,
        )

    def info(self, message: str) -> None:
        """Show the message to whoever watches; the journal does not keep it."""
        self.run.view.said(self.node, message)

    def metrics(self, values: dict[str, float], step: int | None = None, time_ms: int | None = None) -> None:
        """Write the figures into the journal, unless an earlier process of this run has written that step."""
        if step is not None:
            if step <= self._last_step:  # a resumed process reports again what it had reported, bit for bit
                return
            self._last_step = step
        at = time_ms if time_ms is not None else time.time_ns() // 1_000_000
        self.run.journal.append("metrics", self.node, values=values, step=step or 0, at=at)

    def progress(self, done: float, total: float, unit: str) -> None:
        """Show how far the work is to whoever watches."""
        self.run.view.progressed(self.node, done, total, unit)


def waiting_for(claim: Claim) -> str:
    """Who is at work on the same thing."""
    return f"waits for process {claim['pid']} on {claim['host']}, which is making the same"


def waived_in_words(waiver: Waiver) -> str:
    """One line for MLflow."""
    return f"{' and '.join(waiver.differences)} of {waiver.made_for[:12]}, by {waiver.asked_by}"


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that caused it, is the operating system's "no space": libraries in Rust and C++ only
    quote it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if not isinstance(cause, UserError) and "No space left on device" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
