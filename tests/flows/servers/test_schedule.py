"""The user's nights: a schedule fires on the worker, a killed run is rerun, a failed one retried from Prefect's UI.

They go on in a home where a night has been finished: what they do not change is reused.
"""

import shutil
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
def services(finished: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """`up` over a copy of the finished home."""
    home = tmp_path_factory.mktemp("schedule") / "home"
    shutil.copytree(finished[0] / "home", home)
    yield up(home)
    down(home)


@pytest.fixture
def commands(services: Services, tmp_path: Path) -> Commands:
    """The recipe of the finished night, to be given a name and to be changed."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TINY))
    return Commands(services.home, tmp_path / "recipe.yaml")


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


def nights(commands: Commands, state: str) -> list[Night]:
    """Those of the recipe that are in this state."""
    found = [night for night in Ledger(commands.home).nights() if night.recipe_path == str(commands.recipe)]
    return [night for night in found if night.state == state]


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
    commands.change("name", "scheduled")
    commands.change("tokenizer.vocabulary", 500)  # from there on everything has to be done
    commands.change("finetune", None)
    at = datetime.now(UTC) + timedelta(seconds=75)
    cron = f"{at.minute} {at.hour} * * *"
    assert commands("deploy", str(commands.recipe), "--cron", cron, "--timezone", "UTC").returncode == 0
    (night,) = wait(lambda: nights(commands, "running"), 150)
    began = wait(lambda: '"start", "node": "pretrain"' in Ledger(commands.home).journal_path(night).read_text(), 90)
    assert began
    process = process_of(commands.home)
    for victim in [process, *process.children(recursive=True)]:
        victim.send_signal(signal.SIGKILL)
    (night,) = wait(lambda: nights(commands, "killed"), 30)
    rerun = commands.json("rerun")
    assert (rerun["id"], rerun["state"]) == (night.id, "done")
    actions = {stage["node"]: stage["action"] for stage in rerun["stages"]}
    assert actions["tokenize"] == "reused"
    assert actions["pretrain"] in ("ran", "resumed")
    (run,) = flow_runs(services, "scheduled")
    assert wait(lambda: flow_runs(services, "scheduled")[0]["state"]["type"] in ("CRASHED", "FAILED"), 60), run["state"]


def test_a_retry_from_prefects_page_goes_on_with_the_same_night(commands: Commands, services: Services) -> None:
    commands.change("name", "retried")
    assert commands("deploy", str(commands.recipe), "--cron", "0 2 1 1 *", "--timezone", "UTC").returncode == 0
    commands.change("finetune.examples.min_words", 100_000)  # what no document has, only the data can say
    deployment = ask(services, "deployments/name/nightly/retried")
    run = ask(services, f"deployments/{deployment['id']}/create_flow_run", {})

    def state() -> str:
        return ask(services, f"flow_runs/{run['id']}")["state"]["type"]

    (failed,) = wait(lambda: nights(commands, "failed"), 120)
    assert failed.failed_node == "examples"
    commands.change("finetune.examples.min_words", 20)
    wait(lambda: state() == "FAILED", 30)
    retry = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    ask(services, f"flow_runs/{run['id']}/set_state", {"state": retry})  # what the button sends
    (done,) = wait(lambda: nights(commands, "done"), 120)
    assert done.id == failed.id
    assert wait(lambda: state() == "COMPLETED", 30)
