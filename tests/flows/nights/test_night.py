"""Whole nights on real text: reuse, plans that come true, failures and reruns, and what MLflow shows of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.history import history, recorded
from tests.tiny import Commands

DATA_STAGES = ["ingest", "filter", "deduplicate", "tokenizer", "tokenize"]
ALL_STAGES = [
    *DATA_STAGES,
    *("pretrain", "evaluate", "export", "examples", "finetune", "finetune-scratch", "baseline", "report"),
]


@pytest.fixture
def after(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Commands:
    """A copy of the finished home for a test of its own."""
    shutil.copytree(finished[0] / "home", tmp_path / "home")
    shutil.copy(finished[0] / "tiny.yaml", tmp_path / "tiny.yaml")
    return Commands(tmp_path / "home", tmp_path / "tiny.yaml")


def digests(night: dict[str, Any]) -> dict[str, str]:
    return {stage["node"]: stage["digest"] for stage in night["stages"]}


def actions(night: dict[str, Any]) -> dict[str, str]:
    return {stage["node"]: stage["action"] for stage in night["stages"]}


def planned(steps: list[dict[str, Any]]) -> dict[str, str]:
    return {step["node"]: step["action"] for step in steps}


def test_a_night_runs_every_stage_once_in_order(finished: tuple[Path, dict[str, Any]]) -> None:
    night = finished[1]
    assert night["state"] == "done"
    assert list(actions(night).items()) == [(node, "ran") for node in ALL_STAGES]


def test_run_again_everything_is_reused_with_the_same_digests_and_nothing_is_written_or_trained(
    finished: tuple[Path, dict[str, Any]], after: Commands
) -> None:
    assert set(planned(after.json("plan", str(after.recipe))).values()) == {"reuse"}
    before = written(after.home)
    again = after.json("run", str(after.recipe))
    assert set(actions(again).values()) == {"reused"}
    assert digests(again) == digests(finished[1])
    assert written(after.home) == before
    points = recorded(after.home / "journals" / f"{again['id']}.jsonl")
    assert {step for _, _, step, *_ in points} == {0}  # no training told of a step


def written(home: Path) -> dict[Path, int]:
    """When each file of the store, and of what trainings keep beside it, was last written."""
    folders = ("artifacts", "keys", "scratch", "cache")
    return {path: path.stat().st_mtime_ns for name in folders for path in (home / name).rglob("*")}


def test_a_changed_setting_reruns_its_stage_and_what_its_output_changes_as_the_plan_said(
    finished: tuple[Path, dict[str, Any]], after: Commands
) -> None:
    after.change("deduplicate.threshold", 0.95)
    steps = {step["node"]: step for step in after.json("plan", str(after.recipe))}
    assert (steps["ingest"]["action"], steps["filter"]["action"]) == ("reuse", "reuse")
    assert steps["deduplicate"]["action"] == "run"
    assert steps["deduplicate"]["why"] == ["settings.threshold: 0.75 -> 0.95"]
    assert steps["tokenizer"]["why"] == ["runs unless documents comes out equal"]
    night = after.json("run", str(after.recipe))
    assert actions(night)["filter"] == "reused"
    assert actions(night)["deduplicate"] == "ran"
    before, now = digests(finished[1]), digests(night)
    for node in ("tokenizer", "tokenize", "pretrain", "report"):
        assert (actions(night)[node] == "ran") == (before["deduplicate"] != now["deduplicate"])


def in_copy_of_the_project(after: Commands, folder: Path, edits: dict[str, tuple[str, str]]) -> Any:
    """What `plan` says when the project's source is changed in a copy."""
    copy = folder / "project"
    for package in ("flows", "tasks", "models", "deployments"):
        shutil.copytree(PROJECT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in edits.items():
        text = (copy / name).read_text()
        assert old in text
        (copy / name).write_text(text.replace(old, new, 1))
    command = [sys.executable, "-m", "flows.cli", "plan", str(after.recipe), "--json"]
    done = subprocess.run(command, cwd=copy, env=after.environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_changed_comment_reruns_nothing(after: Commands, tmp_path: Path) -> None:
    edits = {
        "tasks/similarity/minhash.py": ("import ", "# a comment\nimport "),
        "tasks/corpus/ingest.py": ('"""', '"""Changed. '),
        "tasks/training/supervise.py": ("killing it.", "it is killed."),  # a carrier
        "models/text/convert.py": ("import json", "import json\n\nADDED = 1"),  # what nothing reaches
    }
    assert set(planned(in_copy_of_the_project(after, tmp_path, edits)).values()) == {"reuse"}


def test_a_changed_helper_reruns_what_uses_it_and_the_plan_names_it(after: Commands, tmp_path: Path) -> None:
    edits = {"tasks/similarity/minhash.py": ("GROUPINGS = 3", "GROUPINGS = 2")}
    steps = {step["node"]: step for step in in_copy_of_the_project(after, tmp_path, edits)}
    assert steps["filter"]["action"] == "reuse"
    assert steps["deduplicate"]["action"] == "run"
    assert steps["deduplicate"]["why"] == ["code of tasks.similarity.minhash.GROUPINGS changed"]
    assert steps["tokenizer"]["action"] == "depends"


def test_a_failed_night_says_how_to_go_on_and_rerun_finishes_it_in_the_same_night(
    finished: tuple[Path, dict[str, Any]], after: Commands
) -> None:
    after.change("finetune.examples.min_words", 100_000)  # what no document has, only the data can say
    failed = after("run", str(after.recipe))
    assert failed.returncode == 2
    sentence, hint = failed.stderr.strip().splitlines()
    assert sentence.startswith("the stage examples failed: ")
    night_id = hint.removeprefix("to go on from there: nightschool rerun ")
    after.change("finetune.examples.min_words", 20)
    night = after.json("rerun")
    assert (night["id"], night["state"]) == (night_id, "done")
    assert digests(night) == digests(finished[1])
    assert set(actions(night).values()) == {"reused"}
    runs = mlflow_runs(after.home, "tiny")
    assert [run.info.status for run in runs if run.data.tags["nightschool.run"] == night_id and is_parent(run)] == [
        "FINISHED"
    ]


def is_parent(run: Any) -> bool:
    return "mlflow.parentRunId" not in run.data.tags


def mlflow_runs(home: Path, experiment: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], max_results=1000))


def test_mlflow_shows_the_night_with_its_stages_nested_and_their_inputs(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    home, night = finished[0] / "home", finished[1]
    runs = mlflow_runs(home, "tiny")
    (parent,) = [run for run in runs if is_parent(run)]
    nested = {run.data.tags["nightschool.node"]: run for run in runs if not is_parent(run)}
    assert set(nested) == set(ALL_STAGES)
    assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for node, digest in digests(night).items():
        assert nested[node].data.tags["nightschool.output.digest"] == digest
    (given,) = nested["filter"].inputs.dataset_inputs
    assert given.dataset.name == "ingest"
    assert digests(night)["ingest"].startswith(given.dataset.digest)


def test_mlflows_metric_history_equals_the_journal(finished: tuple[Path, dict[str, Any]]) -> None:
    home, night = finished[0] / "home", finished[1]
    told = recorded(home / "journals" / f"{night['id']}.jsonl")
    assert len([point for point in told if point[:2] == ("pretrain", "loss")]) == 40
    assert history(f"sqlite:///{home / 'mlflow.db'}", "tiny") == told


def test_the_exported_model_is_registered_and_linked_to_its_run(finished: tuple[Path, dict[str, Any]]) -> None:
    from mlflow import MlflowClient

    home, night = finished[0] / "home", finished[1]
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (version,) = client.search_model_versions("name = 'tiny'")
    assert version.tags["nightschool.digest"] == digests(night)["export"]
    assert version.run_id
    run = client.get_run(version.run_id)
    assert run.data.tags["nightschool.node"] == "export"


def test_an_empty_corpus_is_one_sentence(ready: Commands, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    ready.change("finetune", None)  # of one source, there is nothing to tell apart
    ready.change("ingest.sources", [{"kind": "files", "name": "none", "paths": [str(tmp_path / "empty.jsonl")]}])
    done = ready("run", str(ready.recipe))
    assert done.returncode == 2
    assert done.stderr.startswith("the stage ingest failed: ")
    assert len(done.stderr.strip().splitlines()) == 2  # the sentence, and how to go on
    assert not list(ready.home.rglob("manifest.json"))


def test_an_unreadable_file_is_rejected_with_its_reason_and_too_many_fail_the_night(
    ready: Commands, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_bytes(b"\xff\xfe not text \xff")
    (tmp_path / "data" / "b.txt").write_text("A readable text. " * 30)
    ready.change("finetune", None)
    ready.change("ingest.sources", [{"kind": "files", "name": "mine", "paths": [str(tmp_path / "data")]}])
    done = ready("run", str(ready.recipe))
    assert done.returncode == 1
    assert "a.txt" in done.stderr and "reject_limit" in done.stderr
    assert not list(ready.home.rglob("manifest.json"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tiny: Commands, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        on_small = Commands(small / "home", tiny.recipe)
        (small / "ballast").write_bytes(b"x" * (12 << 20))
        done = on_small("run", str(tiny.recipe))
        assert done.returncode == 1, done.stderr
        assert "no space" in done.stderr.lower()
        assert "Traceback" not in done.stderr
        for key in (small / "home" / "keys").glob("*/*.json"):
            json.loads(key.read_text())
        (small / "ballast").unlink()
        assert not list((small / "home" / "scratch").glob("*/out-*"))
    finally:
        subprocess.run(["umount", "-l", small], check=True)
