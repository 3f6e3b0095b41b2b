"""A headless Chromium, and an `up` whose MLflow knows one night. Skipped, saying so, where there is no Chromium."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.servers.connection import connect_tracking
from flows.servers.process import listen
from flows.servers.services import PREFECT_PORT, Services, down, up
from tasks.core.artifact import Request
from tasks.core.stage import StageLog
from tasks.release.report import ReportSettings, report
from tasks.tracking.sender import sync
from tests.night import Made, make_night, write_journal
from tests.prefect_database import with_database

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TRAINING_VIEW = "?workflowType=machine_learning"
"""MLflow 3.17 chooses between its two views by the address, then by what the browser used last, and not by the
experiment's kind (its issue 24498): a link has to say which."""
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


@pytest.fixture(scope="package")
def browser() -> "Iterator[Browser]":
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}; install chromium or set CHROMIUM to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers run as root and have a small /dev/shm; Chromium's own sandbox and shared memory need more.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def services(
    browser: "Browser", tmp_path_factory: pytest.TempPathFactory, prefect_database: Path
) -> Iterator[Services]:
    """`up` on another port than Prefect's own, as on a machine where somebody else's Prefect runs."""
    home = with_database(tmp_path_factory.mktemp("home"), prefect_database)
    with pytest.MonkeyPatch.context() as patch, closing(listen(PREFECT_PORT)):
        patch.setenv("PREFECT_HOME", str(home / "prefect"))  # Prefect makes its folder when it is first imported
        patch.setenv("MLFLOW_TRACKING_USERNAME", "")  # restored at the end, whatever a connection sets meanwhile
        patch.setenv("MLFLOW_TRACKING_PASSWORD", "")
        yield up(home)
        down(home)


@pytest.fixture
def page(browser: "Browser", services: Services, request: pytest.FixtureRequest) -> "Iterator[Page]":
    """A page of laptop size in a browser that has visited one link of `up`; with NIGHTSCHOOL_SCREENSHOTS=folder its
    last state is kept there as a picture."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    enter(page, services)
    yield page
    if folder := os.environ.get("NIGHTSCHOOL_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png")
    context.close()


def enter(page: "Page", services: Services) -> None:
    """Visit a link, which leads on to Prefect's page; that page need not be drawn before a test goes elsewhere."""
    page.goto(services.make_link(), wait_until="commit")
    page.wait_for_url("**/v2/**", wait_until="commit", timeout=180_000)


@dataclass(frozen=True)
class Tracked:
    """The MLflow of `up`, which was sent a night."""

    uri: str
    made: Made
    experiment: str
    runs: dict[str, str]
    """MLflow's run id of each node."""

    @property
    def experiment_page(self) -> str:
        return f"{self.uri}/#/experiments/{self.experiment}{TRAINING_VIEW}"

    def run_page(self, node: str, tab: str = "") -> str:
        return f"{self.uri}/#/experiments/{self.experiment}/runs/{self.runs[node]}/{tab}{TRAINING_VIEW}"


@pytest.fixture(scope="package")
def tracked(services: Services) -> Tracked:
    from mlflow import MlflowClient

    home = services.home
    made = make_night(home)
    out = made.store.scratch("report")
    out.mkdir(parents=True)
    settings = ReportSettings(title="quickstart")
    metrics = report(made.of_text(), settings, out, StageLog())
    inputs: dict[str, Any] = {name: artifact.reference for name, artifact in made.artifacts.items()}
    request = Request(stage="report", version=1, inputs=inputs, settings={}, code={}, libraries={})
    journal = home / "journals" / "20261122-0200-quickstart.jsonl"
    write_journal(journal, made, made.store.commit(request, out, metrics))
    uri = connect_tracking(home)
    sync(journal, uri)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("quickstart")
    assert found
    experiment = found.experiment_id
    runs = {run.data.tags["nightschool.node"]: run.info.run_id for run in client.search_runs([experiment])}
    return Tracked(services.pages["mlflow"].partition("/#/")[0], made, experiment, runs)
