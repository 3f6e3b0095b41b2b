"""Running stages under Prefect: reuse, resume, what makes a stage run again, and what a failure leaves behind."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from tasks.core.artifact import Artifact, Reference, find_damage
from tasks.core.errors import StageError, UserError
from tasks.core.journal import Journal, read_journal
from tasks.core.run import Run, StageOutcome
from tasks.core.stage import check_stage_names, context
from tasks.core.store import Store

pytestmark = pytest.mark.usefixtures("prefect_api")

STAGES = '''"""Stages of a stranger's project."""
from pathlib import Path

from pydantic import BaseModel

from {package}.helper import shout
from tasks.core.batches import Batches
from tasks.core.stage import Metrics, StageLog, stage
from tasks.core.artifact import Artifact


class Settings(BaseModel):
    text: str = "a b c"
    explode: bool = False


@stage(version=1)
def words(settings: Settings, out: Path, log: StageLog) -> Metrics:
    (out / "words.txt").write_text(settings.text)
    return {{"words": len(settings.text.split())}}


@stage(version=1)
def count(words: Artifact, extra: Artifact | None, out: Path, log: StageLog) -> Metrics:
    text = (words.path / "words.txt").read_text()
    (out / "count.txt").write_text(shout(str(len(text.split()))))
    return {{}}


@stage(version=1)
def slow(settings: Settings, out: Path, work: Path, log: StageLog) -> Metrics:
    steps = work / "steps.txt"
    done = len(steps.read_text()) if steps.exists() else 0
    for step in range(done + 1, 5):
        with steps.open("a") as file:
            file.write("x")
        log.metrics({{"loss": 1.0 / step}}, step=step, time_ms=step)
        if settings.explode and step == 3 and done == 0:
            raise RuntimeError("boom")
    (out / "steps.txt").write_text(steps.read_text())
    return {{"steps": 4}}


@stage(version=1, external=True)
def fetch(settings: Settings, out: Path, log: StageLog) -> Metrics:
    (out / "fetched.txt").write_text(shout(settings.text))
    return {{}}


@stage(version=1)
def join(parts: tuple[Artifact, ...], settings: Settings, out: Path, log: StageLog, batches: Batches) -> Metrics:
    shouted = batches.map("shout", shout_file, [part.path / "words.txt" for part in parts])
    if settings.explode:
        raise RuntimeError("boom")
    for number, batch in enumerate(shouted):
        batch.hand_over("loud.txt", out / f"loud-{{number}}.txt")
    return {{"letters": sum(batch.facts["letters"] for batch in shouted)}}


def shout_file(path: Path, folder: Path) -> dict[str, int]:
    loud = shout(path.read_text())
    (folder / "loud.txt").write_text(loud)
    return {{"letters": len(loud)}}
'''
HELPER = "def shout(text):\n    return text + '!'\n"


@dataclass
class SilentView:
    """Collects what a person would have seen."""

    began_: list[tuple[str, str]] = field(default_factory=list)
    said_: list[str] = field(default_factory=list)

    def began(self, node: str, action: str) -> None:
        self.began_.append((node, action))

    def said(self, node: str, message: str) -> None:
        self.said_.append(message)

    def progressed(self, node: str, done: float, total: float, unit: str) -> None: ...

    def ended(self, outcome: StageOutcome) -> None: ...


@dataclass
class Project:
    """A stranger's project with stages, and runs of them over one store."""

    folder: Path
    package: str
    home: Path
    runs: int = 0

    def load(self) -> ModuleType:
        for name in [name for name in sys.modules if name.partition(".")[0] == self.package]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module(f"{self.package}.stages")

    def edit(self, module: str, old: str, new: str) -> None:
        file = self.folder / self.package / f"{module}.py"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def run(self, work: Callable[[ModuleType], object], keep: frozenset[str] = frozenset()) -> Run:
        """Open a run, do the work in a Prefect flow, return the run with its outcomes."""
        from prefect import flow

        self.runs += 1
        journal = Journal(self.home / "journals" / f"run-{self.runs}.jsonl")
        run = Run(f"run-{self.runs}", Store(self.home), journal, SilentView(), keep)
        token = context.set(run)
        try:
            flow(name="test")(lambda: work(self.load()) and None)()
        finally:
            context.reset(token)
            journal.close()
        return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    package = f"stranger_{abs(hash(tmp_path))}"
    folder = tmp_path / "project"
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text("")
    (folder / package / "stages.py").write_text(STAGES.format(package=package))
    (folder / package / "helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Project(folder, package, tmp_path / "home")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def both(stages: ModuleType, text: str = "a b c") -> Artifact:
    return stages.count.run(stages.words.run(stages.Settings(text=text)), None)


def actions(run: Run) -> list[str]:
    return [outcome.action for outcome in run.outcomes]


def test_a_second_run_reuses_everything_with_the_same_digests(project: Project) -> None:
    first, second = project.run(both), project.run(both)
    assert actions(first) == ["ran", "ran"]
    assert actions(second) == ["reused", "reused"]
    assert [outcome.digest for outcome in first.outcomes] == [outcome.digest for outcome in second.outcomes]


def test_a_comment_reruns_nothing(project: Project) -> None:
    project.run(both)
    project.edit("helper", "def shout", "# louder\ndef shout")
    assert actions(project.run(both)) == ["reused", "reused"]


def test_a_changed_helper_reruns_the_stages_that_reach_it(project: Project) -> None:
    first = project.run(both)
    project.edit("helper", "'!'", "'!!'")
    second = project.run(both)
    assert actions(second) == ["reused", "ran"]
    assert first.outcomes[0].digest == second.outcomes[0].digest
    assert first.outcomes[1].digest != second.outcomes[1].digest


def test_a_stage_that_puts_out_the_same_bytes_stops_the_wave(project: Project) -> None:
    project.run(both)
    second = project.run(lambda stages: stages.count.run(stages.words.run(stages.Settings(explode=True)), None))
    assert actions(second) == ["ran", "reused"]


def test_kept_output_is_accepted_in_spite_of_changed_code_and_the_waiver_is_recorded(project: Project) -> None:
    first = project.run(both)
    project.edit("helper", "'!'", "'!!'")
    second = project.run(both, keep=frozenset({"words", "count"}))
    assert actions(second) == ["reused", "kept"]  # the code of `words` does not reach the helper
    assert [outcome.digest for outcome in first.outcomes] == [outcome.digest for outcome in second.outcomes]
    tags = [record.payload["values"] for record in read_journal(second.journal.path) if record.kind == "tags"]
    (told,) = [values["nightschool.waived"] for values in tags if "nightschool.waived" in values]
    assert told.startswith("code of ") and told.endswith(", by --keep")
    waivers = [record.waiver for record in second.store.records("count")]
    assert [(waiver.asked_by, waiver.differences) for waiver in waivers if waiver] == [("--keep", ("code",))]


def test_a_killed_or_failed_stage_goes_on_where_its_work_stands(project: Project) -> None:
    settings = {"explode": True}
    with pytest.raises(RuntimeError, match="boom"):
        project.run(lambda stages: stages.slow.run(stages.Settings(**settings)))
    assert not list((project.home / "artifacts").rglob("*"))
    assert [path.name for path in (project.home / "scratch").glob("*/*")] == ["work"]
    second = project.run(lambda stages: stages.slow.run(stages.Settings(**settings)))
    assert actions(second) == ["resumed"]
    artifact = second.store.get(next(second.store.records("slow")).reference)
    assert (artifact.path / "steps.txt").read_text() == "xxxx"
    assert not list((project.home / "scratch").iterdir())


def test_a_rerun_in_the_same_journal_records_every_step_once(project: Project) -> None:
    for _ in range(2):
        project.runs = 0
        try:
            run = project.run(lambda stages: stages.slow.run(stages.Settings(explode=True)))
        except RuntimeError:
            continue
    steps = [
        record.payload["step"]
        for record in read_journal(run.journal.path)
        if "loss" in record.payload.get("values", {})
    ]
    assert steps == [1, 2, 3, 4]


def test_a_failure_is_recorded_with_the_node_it_struck(project: Project) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        project.run(lambda stages: stages.slow.run(stages.Settings(explode=True), node="slow-twin"))
    ends = [record for record in read_journal(project.home / "journals" / "run-1.jsonl") if record.kind == "end"]
    assert [(record.node, record.payload["status"]) for record in ends] == [("slow-twin", "FAILED")]


def test_a_damaged_artifact_is_derived_again_and_named(project: Project) -> None:
    first = project.run(both)
    file = Store(project.home).path("words", first.outcomes[0].digest) / "words.txt"
    file.chmod(0o644)
    file.write_text("a b x")
    second = project.run(both)
    assert actions(second) == ["ran", "reused"]
    assert any("words" in line and "damaged" in line for line in second.view.said_)  # type: ignore[attr-defined]
    for outcome in second.outcomes:
        path = Store(project.home).path(outcome.stage, outcome.digest)
        assert find_damage(Artifact(outcome.stage, outcome.digest, path), sampled_bytes=None) is None


def test_the_journal_names_inputs_by_digest_and_source(project: Project) -> None:
    run = project.run(both)
    records = list(read_journal(run.journal.path))
    (given,) = [record for record in records if record.kind == "input"]
    assert (given.node, given.payload["name"], given.payload["digest"]) == ("count", "words", run.outcomes[0].digest)
    assert given.payload["source"].startswith("file://")
    assert [record.payload["status"] for record in records if record.kind == "end"] == ["FINISHED", "FINISHED"]


def test_a_full_disk_is_one_sentence(project: Project) -> None:
    project.edit(
        "stages", '(out / "words.txt").write_text(settings.text)', 'raise OSError(28, "No space left on device")'
    )
    with pytest.raises(
        StageError, match=r"no space is left in .* for the stage words; free some or point NIGHTSCHOOL_HOME"
    ):
        project.run(both)


def test_a_stage_outside_a_run_says_what_is_missing(project: Project) -> None:
    stages = project.load()
    with pytest.raises(LookupError):
        stages.words.run(stages.Settings())


def test_called_plainly_a_stage_is_just_its_function(project: Project, tmp_path: Path) -> None:
    stages = project.load()
    from tasks.core.stage import StageLog

    assert stages.words(stages.Settings(), tmp_path, StageLog()) == {"words": 3}
    assert (tmp_path / "words.txt").read_text() == "a b c"


def test_a_parameter_that_cannot_enter_a_key_is_refused_when_the_stage_is_defined() -> None:
    from tasks.core.stage import stage

    def wrong(limit: int, out: Path) -> dict[str, int | float]:
        return {}

    with pytest.raises(TypeError, match=r"parameter limit is .*int.*only artifacts and pydantic models"):
        stage(version=1)(wrong)


def test_a_stage_takes_several_artifacts_in_their_order(project: Project) -> None:
    def join(order: Callable[[list[Artifact]], list[Artifact]]) -> Run:
        def work(stages: ModuleType) -> None:
            parts = [stages.words.run(stages.Settings(text=text), node=text) for text in ("one", "two")]
            stages.join.run(tuple(order(parts)), stages.Settings())

        return project.run(work)

    joined = join(list).outcomes[-1]
    store = Store(project.home)
    artifact = store.get(Reference(stage="join", digest=joined.digest))
    assert [(artifact.path / f"loud-{n}.txt").read_text() for n in range(2)] == ["one!", "two!"]
    assert artifact.metrics == {"letters": 8}
    assert [name for name, _ in artifact.manifest.references()] == ["parts.0", "parts.1"]
    assert join(list).outcomes[-1].action == "reused"
    assert join(lambda parts: parts[::-1]).outcomes[-1].digest != joined.digest


def test_batches_that_were_done_before_a_failure_are_not_done_again(project: Project) -> None:
    def work(stages: ModuleType) -> None:
        parts = [stages.words.run(stages.Settings(text=text), node=text) for text in ("one", "two")]
        stages.join.run(tuple(parts), stages.Settings(explode=True))

    with pytest.raises(RuntimeError, match="boom"):
        project.run(work)
    (before,) = project.home.glob("scratch/*/*/batches/shout/000000/loud.txt")
    made = before.stat().st_mtime_ns
    with pytest.raises(RuntimeError, match="boom"):
        project.run(work)
    assert before.stat().st_mtime_ns == made


def test_an_earlier_nights_work_is_taken_without_a_word_where_it_stands(project: Project) -> None:
    def work(stages: ModuleType) -> None:
        stages.words.run(stages.Settings(), node="words-0", settled=True)
        stages.words.run(stages.Settings(text="d e"), node="words")

    assert [outcome.node for outcome in project.run(work).outcomes] == ["words-0", "words"]
    again = project.run(work)
    assert [outcome.node for outcome in again.outcomes] == ["words"]
    assert "words-0" not in {record.node for record in read_journal(again.journal.path)}


def test_an_earlier_nights_damaged_work_is_derived_again(project: Project) -> None:
    def work(stages: ModuleType) -> None:
        stages.words.run(stages.Settings(), node="words-0", settled=True)

    digest = project.run(work).outcomes[0].digest
    damaged = Store(project.home).path("words", digest) / "words.txt"
    damaged.chmod(0o644)
    damaged.write_text("torn")
    again = project.run(work)
    assert [(outcome.node, outcome.action, outcome.digest) for outcome in again.outcomes] == [
        ("words-0", "ran", digest)
    ]


def test_what_an_earlier_night_fetched_stands_although_the_code_has_changed_since(project: Project) -> None:
    def work(stages: ModuleType) -> None:
        stages.fetch.run(stages.Settings(), node="fetch-0", settled=True)
        stages.fetch.run(stages.Settings(text="new"), node="fetch")

    assert [outcome.node for outcome in project.run(work).outcomes] == ["fetch-0", "fetch"]
    project.edit("helper", "'!'", "'?'")
    again = project.run(work)
    assert [(outcome.node, outcome.action) for outcome in again.outcomes] == [("fetch", "ran")]
    (waiver,) = [record.waiver for record in again.store.records("fetch") if record.waiver]
    assert (waiver.asked_by, waiver.differences) == ("rule: what an earlier night took in stands", ("code",))


def test_a_name_that_no_stage_has_cannot_be_kept_and_the_near_one_is_said(project: Project) -> None:
    project.load()
    check_stage_names(["words", "count"])
    with pytest.raises(UserError, match=r"there is no stage 'wrods' to keep; did you mean words\?"):
        check_stage_names(["words", "wrods"])
