"""The user's nights: a schedule fires on the worker, a killed run is rerun, a failed one retried from Prefect's UI."""

import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from flows.nights.ledger import Ledger, Night
from flows.servers.access import Access
from flows.servers.services import Services, down, up
from tests.tiny import TINY, Commands


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    folder = tmp_path_factory.mktemp("schedule")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return Commands(folder / "home", folder / "tiny.yaml")


@pytest.fixture(scope="module")
def services(commands: Commands) -> Iterator[Services]:
    commands.home.mkdir()
    yield up(commands.home)
    down(commands.home)


def ask(services: Services, path: str, content: dict[str, Any] | None = None) -> Any:
    """POST to Prefect's API, or GET without a content."""
    headers = {"Authorization": Access.of(services.home).authorization}
    method = "GET" if content is None else "POST"
    url = f"{services.api_url}/{path}"
    return httpx.request(method, url, json=content, headers=headers, trust_env=False, timeout=30).json()


def wait(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {condition}"
        time.sleep(0.1)
    return found


def nights(commands: Commands) -> list[Night]:
    return Ledger(commands.home).nights()


def flow_runs(services: Services, deployment: str) -> list[dict[str, Any]]:
    found = ask(services, "flow_runs/filter", {"deployments": {"name": {"any_": [deployment]}}})
    return [run for run in found if run["state"]["type"] != "SCHEDULED"]


def process_of(home: Path) -> psutil.Process:
    """The flow-run process that the worker started over this home."""
    for process in psutil.process_iter():
        try:
            runs_flow = "prefect.engine" in " ".join(process.cmdline())
            if runs_flow and process.environ().get("NIGHTSCHOOL_HOME") == str(home):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    raise AssertionError("no flow run process")


def test_a_schedule_a_minute_ahead_fires_and_a_killed_run_is_finished_by_rerun(
    commands: Commands, services: Services
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=75)
    cron = f"{at.minute} {at.hour} * * *"
    assert commands("deploy", str(commands.recipe), "--cron", cron, "--timezone", "UTC").returncode == 0
    (night,) = wait(lambda: nights(commands), 150)
    assert night.state == "running"
    began = wait(lambda: '"start", "node": "pretrain"' in Ledger(commands.home).journal_path(night).read_text(), 90)
    assert began
    process = process_of(commands.home)
    for victim in [process, *process.children(recursive=True)]:
        victim.send_signal(signal.SIGKILL)
    (night,) = wait(lambda: [night for night in nights(commands) if night.state == "killed"], 30)
    rerun = commands.json("rerun")
    assert (rerun["id"], rerun["state"]) == (night.id, "done")
    assert {stage["node"]: stage["action"] for stage in rerun["stages"]}["tokenize"] == "reused"
    (run,) = flow_runs(services, "tiny")
    assert wait(lambda: flow_runs(services, "tiny")[0]["state"]["type"] in ("CRASHED", "FAILED"), 60), run["state"]


def test_a_retry_from_prefects_page_goes_on_with_the_same_night(commands: Commands, services: Services) -> None:
    assert commands("deploy", str(commands.recipe), "--cron", "0 2 1 1 *", "--timezone", "UTC").returncode == 0
    commands.change("finetune.examples.min_words", 100_000)  # what no document has, only the data can say
    before = {night.id for night in nights(commands)}
    deployment = ask(services, "deployments/name/nightly/tiny")
    run = ask(services, f"deployments/{deployment['id']}/create_flow_run", {})

    def new(state: str) -> list[Night]:
        return [night for night in nights(commands) if night.id not in before and night.state == state]

    def state() -> str:
        return ask(services, f"flow_runs/{run['id']}")["state"]["type"]

    (failed,) = wait(lambda: new("failed"), 120)
    assert failed.failed_node == "examples"
    commands.change("finetune.examples.min_words", 20)
    wait(lambda: state() == "FAILED", 30)
    retry = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    ask(services, f"flow_runs/{run['id']}/set_state", {"state": retry})  # what the button sends
    (done,) = wait(lambda: new("done"), 120)
    assert done.id == failed.id
    assert wait(lambda: state() == "COMPLETED", 30)
