"""Prefect's pages as a person sees them: the schedule, a run that it started, and the button that runs it again."""

import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from flows.servers.access import Access
from flows.servers.deployment import deploy_flow
from flows.servers.services import Services

if TYPE_CHECKING:
    from uuid import UUID

    from playwright.sync_api import Page
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

TINY_FLOW = """
    from pathlib import Path
    from prefect import flow, task

    @task
    def count_words(journal: str) -> None:
        attempts = Path(journal)
        attempts.write_text(attempts.read_text() + "x" if attempts.exists() else "x")
        if attempts.read_text() == "x":
            raise RuntimeError("the first attempt fails")

    @flow(name="nightly")
    def nightly(recipe: str) -> None:
        count_words(recipe)
"""


@dataclass(frozen=True)
class Deployed:
    """A deployment, and a run of it that has failed."""

    url: str
    client: "SyncPrefectClient"
    deployment: "UUID"
    run: "UUID"

    def wait_for(self, state: str) -> "FlowRun":
        deadline = time.monotonic() + 90
        while (found := self.client.read_flow_run(self.run)).state_type != state:
            assert time.monotonic() < deadline, found.state
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def deployed(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    from prefect.client.orchestration import SyncPrefectClient

    home, project = services.home, tmp_path_factory.mktemp("project")
    (project / "nightly.py").write_text(textwrap.dedent(TINY_FLOW))
    recipe = {"recipe": str(home / "attempts")}
    api = str(services.api_url)
    name = deploy_flow(project, "nightly.py:nightly", "quickstart", recipe, home, "0 2 * * *", "Europe/Berlin", api)
    with SyncPrefectClient(api, auth_string=Access.of(home).auth_string) as client:
        deployment = client.read_deployment_by_name(name).id
        run = client.create_flow_run_from_deployment(deployment).id
        made = Deployed(services.pages["prefect"], client, deployment, run)
        made.wait_for("FAILED")
        yield made


def test_the_deployment_page_shows_its_schedule_and_the_next_night(page: "Page", deployed: Deployed) -> None:
    page.goto(f"{deployed.url}/v2/deployments/deployment/{deployed.deployment}")
    page.get_by_text("At 02:00 AM").wait_for()
    page.get_by_text("auto-scheduled").first.wait_for()
    page.get_by_text("nightly.py:nightly").wait_for()


def test_a_run_of_the_worker_is_shown_with_its_log_and_is_run_again_by_retry(page: "Page", deployed: Deployed) -> None:
    page.goto(f"{deployed.url}/v2/runs/flow-run/{deployed.run}")
    page.get_by_text("the first attempt fails").first.wait_for()
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Retry").click()
    page.get_by_role("dialog").or_(page.get_by_role("alertdialog")).get_by_role("button", name="Retry").click()
    assert deployed.wait_for("COMPLETED").run_count == 2
    page.get_by_text("Completed").first.wait_for()


def test_the_pages_ask_nobody_but_the_server(page: "Page", deployed: Deployed) -> None:
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(deployed.url)
    page.get_by_text("Active Work Pools").wait_for()
    page.wait_for_timeout(2000)
    assert {url for url in asked if not url.startswith((deployed.url, "data:", "blob:"))} == set()
