"""What a person sees in MLflow: the night as a parent run, its stages, their inputs and charts, report and lineage."""

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Tracked


@pytest.fixture(autouse=True)
def _patience() -> None:
    """MLflow's page loads its parts one after the other."""
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)


def test_the_experiment_opens_in_the_model_training_view(page: "Page", tracked: "Tracked") -> None:
    from playwright.sync_api import expect

    page.goto(tracked.experiment_page)
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    sidebar = page.get_by_role("navigation").first
    expect(sidebar.get_by_text("Models", exact=True)).to_be_visible()
    expect(page.get_by_text("Judges")).to_have_count(0)


def test_a_night_is_one_run_with_its_stages_nested(page: "Page", tracked: "Tracked") -> None:
    from playwright.sync_api import expect

    page.goto(tracked.experiment_page)
    expect(page.get_by_role("link", name=re.compile("20261122-0200"))).to_be_visible()
    expect(page.get_by_role("link", name="tokenizer", exact=True)).to_have_count(0)
    page.get_by_role("gridcell").get_by_role("button").first.click()
    for node in tracked.made.artifacts:
        expect(page.get_by_role("link", name=node, exact=True)).to_be_visible()


def test_a_stage_shows_its_inputs_with_digest_and_source(page: "Page", tracked: "Tracked") -> None:
    from playwright.sync_api import expect

    page.goto(tracked.run_page("filter"))
    ingested = tracked.made.artifacts["ingest"]
    shown = page.get_by_text(f"ingest ({ingested.digest[:36]})")
    expect(shown).to_be_visible()
    shown.click()
    drawer = page.get_by_role("dialog")
    expect(drawer.get_by_text(ingested.digest[:36]).first).to_be_visible()
    expect(drawer.get_by_text(ingested.path.resolve().as_uri()).first).to_be_visible()


def test_the_metrics_of_training_are_charts(page: "Page", tracked: "Tracked") -> None:
    from playwright.sync_api import expect

    page.goto(tracked.run_page("pretrain", "model-metrics"))
    for name in ("loss", "learning_rate", "grad_norm"):
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    page.get_by_role("heading", name="loss", exact=True).scroll_into_view_if_needed()
    drawn = ".js-plotly-plot .scatterlayer path.js-line"
    # Plotly also makes an empty path for each series that is no line; what counts is that the lines have their points.
    long = "path => path.getAttribute('d')?.length > 500"
    page.wait_for_function(f"drawn => [...document.querySelectorAll(drawn)].filter({long}).length > 1", arg=drawn)


def test_the_report_opens_at_the_nights_run(page: "Page", tracked: "Tracked") -> None:
    from playwright.sync_api import expect

    page.goto(tracked.run_page("", "artifacts/report.html"))
    report = page.frame_locator("iframe#html")
    expect(report.get_by_role("heading", name="quickstart")).to_be_visible()
    expect(report.get_by_text("of 120 taken in")).to_be_visible()
    expect(report.get_by_role("img", name="Training loss by step")).to_be_attached()


def test_the_lineage_graph_answers_a_click_inside_mlflow(page: "Page", tracked: "Tracked") -> None:
    from playwright.sync_api import expect

    page.goto(tracked.run_page("", "artifacts/lineage.html"))
    lineage = page.frame_locator("iframe#html")
    expect(lineage.get_by_role("heading", name="Lineage of quickstart")).to_be_visible()
    model = tracked.made.artifacts["pretrain"]
    lineage.get_by_role("button", name=f"pretrain {model.digest}").click()
    details = lineage.locator("#details")
    expect(details.get_by_role("heading", name="pretrain")).to_be_visible()
    expect(details.get_by_text("learning_rate")).to_be_visible()
    expect(details.get_by_text(f"tokenize {tracked.made.artifacts['tokenize'].digest[:12]}")).to_be_visible()
    behind = {"ingest", "filter", "deduplicate", "tokenizer", "tokenize"}
    marked = lineage.locator(".node.before").evaluate_all("nodes => nodes.map(node => node.id)")
    assert {name.partition("-")[0] for name in marked} == behind


def test_the_registered_model_leads_to_the_run_that_exported_it(page: "Page", tracked: "Tracked") -> None:
    from playwright.sync_api import expect

    page.goto(f"{tracked.uri}/#/models/quickstart/versions/1")
    expect(page.get_by_text(tracked.made.artifacts["export"].digest)).to_be_visible()
    page.get_by_role("link", name="export", exact=True).click()
    expect(page).to_have_url(re.compile(tracked.runs["export"]))
    expect(page.get_by_role("heading", name="Registered models")).to_be_visible()
