"""Schedules on a real Prefect server and a real worker, with a flow small enough to fail on demand."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from flows.servers.access import Access
from flows.servers.deployment import PROJECT, deploy, deploy_flow
from flows.servers.prefect import environment
from flows.servers.services import Services, down, up
from tasks.core.errors import UserError
from tests.prefect_database import with_database

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse as Deployment

TINY_FLOW = """
    import os, time
    from pathlib import Path
    from prefect import flow
    from prefect.runtime import flow_run

    @flow(name="night")
    def night(recipe: str):
        mode, _, journal = recipe.partition(":")
        first = not Path(journal).exists()
        with open(journal, "a") as file:
            file.write(f"{flow_run.id} {os.getpid()} {os.getcwd()} {os.environ['NIGHTSCHOOL_HOME']}\\n")
        if mode == "fail first" and first:
            raise RuntimeError("the first time fails")
        if mode == "sleep":
            time.sleep(600)
"""


@dataclass(frozen=True)
class Stand:
    """A project folder with the tiny flow, deployed on the services of a home."""

    home: Path
    project: Path
    services: Services

    def deploy(self, name: str, mode: str, cron: str = "0 2 * * *", timezone: str = "Europe/Berlin") -> "Deployment":
        recipe = {"recipe": f"{mode}:{self.journal(name)}"}
        api_url = str(self.services.api_url)
        full = deploy_flow(self.project, "night.py:night", name, recipe, self.home, cron, timezone, api_url)
        return self.client.read_deployment_by_name(full)

    def journal(self, name: str) -> Path:
        return self.home / f"{name}.txt"

    @cached_property
    def client(self) -> "SyncPrefectClient":
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(str(self.services.api_url), auth_string=Access.of(self.home).auth_string)

    def run(self, deployment: "Deployment") -> UUID:
        return self.client.create_flow_run_from_deployment(deployment.id).id

    def wait_for(self, run: UUID, state: str, seconds: float = 90.0) -> "FlowRun":
        deadline = time.monotonic() + seconds
        while (found := self.client.read_flow_run(run)).state_type != state:
            assert time.monotonic() < deadline, f"{found.state} instead of {state}"
            time.sleep(0.2)
        return found


def schedules(deployment: "Deployment") -> list[tuple[str, str | None]]:
    from prefect.client.schemas.schedules import CronSchedule

    found = [schedule.schedule for schedule in deployment.schedules]
    return [(schedule.cron, schedule.timezone) for schedule in found if isinstance(schedule, CronSchedule)]


def make_project(folder: Path) -> Path:
    (folder / "night.py").write_text(textwrap.dedent(TINY_FLOW))
    return folder


@pytest.fixture(scope="module", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prefect makes its folder when it is first imported, and must not make it in the developer's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        yield


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Stand]:
    home = with_database(tmp_path_factory.mktemp("home"), prefect_database)
    yield Stand(home, make_project(tmp_path_factory.mktemp("project")), up(home))
    down(home)


@pytest.fixture(scope="module")
def scheduled(stand: Stand) -> str:
    """The name of a deployment whose schedule fires once, within 80 seconds; other tests run meanwhile."""
    soon = datetime.now(UTC) + timedelta(seconds=80)
    stand.deploy("soon", "succeed", f"{soon.minute} {soon.hour} {soon.day} {soon.month} *", "UTC")
    return "soon"


@pytest.mark.parametrize("cron", ["", "0 2 * *", "61 2 * * *", "every night", "0 0 2 * * *"])
def test_a_bad_cron_line_is_refused_before_anything_is_asked_of_the_server(tmp_path: Path, cron: str) -> None:
    with pytest.raises(UserError, match="is not a cron line; give minute, hour"):
        deploy_flow(tmp_path, "night.py:night", "bad", {}, tmp_path, cron, "UTC", "http://127.0.0.1:1/api")


@pytest.mark.parametrize(("timezone", "hint"), [("Europe/Berln", "did you mean Europe/Berlin"), ("", "give an IANA")])
def test_an_unknown_time_zone_is_refused_with_a_hint(tmp_path: Path, timezone: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        deploy_flow(tmp_path, "night.py:night", "bad", {}, tmp_path, "0 2 * * *", timezone, "http://127.0.0.1:1/api")


def test_a_deployment_knows_schedule_place_and_home(stand: Stand, scheduled: str) -> None:
    made = stand.deploy("plain", "succeed")
    assert schedules(made) == [("0 2 * * *", "Europe/Berlin")]
    assert (made.work_pool_name, made.entrypoint, made.path) == ("nightschool", "night.py:night", str(stand.project))
    assert made.job_variables["env"] == {"NIGHTSCHOOL_HOME": str(stand.home)}
    assert made.global_concurrency_limit is None


def test_deploying_again_replaces_the_schedule(stand: Stand, scheduled: str) -> None:
    before = stand.deploy("again", "succeed", "0 2 * * *")
    after = stand.deploy("again", "succeed", "30 3 * * 1-5", "America/New_York")
    assert after.id == before.id
    assert schedules(after) == [("30 3 * * 1-5", "America/New_York")]


def test_a_run_retried_as_the_page_does_keeps_its_id(stand: Stand, scheduled: str) -> None:
    from prefect.states import AwaitingRetry

    run = stand.run(stand.deploy("flaky", "fail first"))
    stand.wait_for(run, "FAILED")
    stand.client.set_flow_run_state(run, AwaitingRetry(message="Retry from the UI"), force=True)
    assert stand.wait_for(run, "COMPLETED").run_count == 2
    first, second = (line.split() for line in stand.journal("flaky").read_text().splitlines())
    assert first[0] == second[0] == str(run)
    assert first[1] != second[1], "each attempt is a process of its own"
    assert second[2:] == [str(stand.project), str(stand.home)]


def test_a_run_killed_by_the_system_is_shown_as_crashed(stand: Stand, scheduled: str) -> None:
    run = stand.run(stand.deploy("killed", "sleep"))
    stand.wait_for(run, "RUNNING")
    while not stand.journal("killed").exists():
        time.sleep(0.1)
    os.kill(int(stand.journal("killed").read_text().split()[1]), signal.SIGKILL)
    stand.wait_for(run, "CRASHED")


def test_prefect_yaml_describes_the_quickstart(stand: Stand, scheduled: str) -> None:
    command = ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"]
    variables = {**os.environ, **environment(stand.home, str(stand.services.api_url))}
    done = subprocess.run(
        [sys.executable, *command], cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = stand.client.read_deployment_by_name("nightly/quickstart")
    assert schedules(made) == [("0 2 * * *", "Europe/Berlin")]
    assert made.parameters == {"recipe": "quickstart"}
    by_command = deploy(stand.home, Path("quickstart"), "0 2 * * *", "Europe/Berlin", str(stand.services.api_url))
    assert stand.client.read_deployment_by_name(by_command).id == made.id


def test_down_tells_a_running_flow_before_it_ends_the_servers(tmp_path: Path, prefect_database: Path) -> None:
    stand = Stand(tmp_path, make_project(tmp_path), up(with_database(tmp_path, prefect_database)))
    try:
        run = stand.run(stand.deploy("sleeper", "sleep"))
        stand.wait_for(run, "RUNNING")
    finally:
        down(tmp_path)
    with sqlite3.connect(tmp_path / "prefect" / "prefect.db") as database:
        states = database.execute("select id, state_type from flow_run where start_time is not null").fetchall()
    assert states == [(str(run), "CRASHED")]


def test_a_schedule_fires_on_the_worker(stand: Stand, scheduled: str) -> None:
    deadline = time.monotonic() + 150
    while not stand.journal(scheduled).exists():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    run = UUID(stand.journal(scheduled).read_text().split()[0])
    assert stand.wait_for(run, "COMPLETED").auto_scheduled
