"""What a browser gets from the servers of `up`: everything after one visit to a link, nothing without."""

import http.server
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from flows.servers.access import Access
from flows.servers.services import Services
from tests.browser.conftest import Tracked, enter

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Response

CREATE = {
    "prefect": ("/api/flows/", '{"name": "attack"}'),
    "mlflow": ("/api/2.0/mlflow/experiments/create", '{"name": "attack"}'),
}
"""A request that leaves a trace, for each server."""
FETCH = """
    async ([url, options]) => {
        try {
            const answer = await fetch(url, options);
            return [answer.type, answer.status, await answer.text()];
        } catch (error) {
            return ["error", 0, ""];
        }
    }
"""
SOCKET = """
    url => new Promise(done => {
        const socket = new WebSocket(url, ["prefect"]);
        socket.onopen = () => done("open");
        socket.onerror = () => done("refused");
    })
"""


class _Elsewhere(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><body>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of another user's server: a page of another origin, and of the same site if its name is ours."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def visitor(browser: "Browser", services: Services) -> "Iterator[BrowserContext]":
    """The owner's browser: it has visited a link, so it holds a session."""
    context = browser.new_context()
    enter(context.new_page(), services)
    yield context
    context.close()


@pytest.fixture(params=["127.0.0.1", "localhost", "foreign.localhost", "the name of our pages"])
def foreign(request: pytest.FixtureRequest, visitor: "BrowserContext", services: Services, elsewhere: int) -> "Page":
    """A page that the owner opened and that is not ours; the last one stands for somebody who learnt our name."""
    name = Access.of(services.home).page_host if "our" in request.param else request.param
    page = visitor.new_page()
    page.goto(f"http://{name}:{elsewhere}/")
    return page


def urls(services: Services, part: str) -> list[str]:
    """A server's addresses for programs and for browsers."""
    found = services.part(part)
    assert found
    return [found.url, Access.of(services.home).page(found.url)]


def traces(services: Services) -> list[str]:
    """Flows and experiments that an attack has made."""
    import httpx

    ours: dict[str, Any] = {"headers": {"Authorization": Access.of(services.home).authorization}, "trust_env": False}
    flows = httpx.post(f"{services.api_url}/flows/filter", json={}, **ours).json()
    search = f"{services.mlflow_url}/api/2.0/mlflow/experiments/search"
    experiments = httpx.post(search, json={"max_results": 100}, **ours).json()["experiments"]
    return [found["name"] for found in flows + experiments if found["name"] == "attack"]


@pytest.mark.parametrize("part", ["prefect", "mlflow"])
def test_a_foreign_page_can_neither_read_nor_write(foreign: "Page", services: Services, part: str) -> None:
    path, body = CREATE[part]
    for base in urls(services, part):
        for kind in ("application/json", "text/plain"):
            sent = {"method": "POST", "body": body, "headers": {"Content-Type": kind}, "credentials": "include"}
            assert foreign.evaluate(FETCH, [base + path, sent]) == ["error", 0, ""]
        blind = {"method": "POST", "body": body, "mode": "no-cors", "credentials": "include"}
        kind, status, text = foreign.evaluate(FETCH, [base + path, blind])
        assert (status, text) == (0, "")
        for read in ("/", "/api/admin/version", "/health"):
            assert foreign.evaluate(FETCH, [base + read, {"credentials": "include"}]) == ["error", 0, ""]
        assert foreign.evaluate(SOCKET, f"{base.replace('http', 'ws')}/api/events/in") == "refused"
    assert traces(services) == []


@pytest.mark.parametrize("part", ["prefect", "mlflow"])
def test_a_foreign_pages_form_image_script_and_frame_are_refused(
    foreign: "Page", services: Services, part: str
) -> None:
    path, body = CREATE[part]
    for base in urls(services, part):
        answered: list[tuple[str, int]] = []

        def note(response: "Response", to: list[tuple[str, int]] = answered) -> None:
            to.append((response.url, response.status))

        foreign.on("response", note)
        for tag in ("img", "script", "iframe"):
            foreign.evaluate(
                "([tag, url]) => new Promise(done => {"
                "  const element = document.createElement(tag); element.src = url;"
                "  element.onload = element.onerror = () => done(); document.body.append(element); })",
                [tag, f"{base}/health?{tag}"],
            )
        with foreign.expect_navigation():
            foreign.evaluate(
                "([url, body]) => {"
                "  const form = document.createElement('form');"
                "  form.method = 'POST'; form.action = url; form.enctype = 'text/plain';"
                "  const field = document.createElement('input');"
                "  field.name = body.slice(0, -1) + ', \"x\": \"'; field.value = '\"}';"
                "  form.append(field); document.body.append(form); form.submit(); }",
                [base + path, body],
            )
        statuses = {url: status for url, status in answered if url.startswith(base)}
        assert statuses[base + path] == 403
        assert set(statuses.values()) == {403}
        foreign.go_back()
    assert traces(services) == []


def test_one_visit_opens_the_pages_of_both_servers(visitor: "BrowserContext", services: Services) -> None:
    prefect, mlflow = visitor.new_page(), visitor.new_page()
    prefect.goto(services.pages["prefect"])
    prefect.get_by_role("link", name="Work Pools").wait_for()
    mlflow.goto(services.pages["mlflow"])
    mlflow.get_by_text("Experiments").first.wait_for()


def test_the_link_itself_leads_to_the_page(browser: "Browser", services: Services) -> None:
    page = browser.new_page()
    enter(page, services)
    page.get_by_role("link", name="Work Pools").wait_for()
    page.close()


def test_a_link_on_a_foreign_page_works_too(browser: "Browser", services: Services, elsewhere: int) -> None:
    """Terminals may be web pages."""
    page = browser.new_page()
    page.goto(f"http://localhost:{elsewhere}/")
    page.evaluate("url => { location.href = url }", services.make_link())
    page.get_by_role("link", name="Work Pools").wait_for()
    page.close()


def test_a_link_works_once(browser: "Browser", services: Services) -> None:
    link = services.make_link()
    first, second = browser.new_context(), browser.new_context()
    assert first.new_page().goto(link).status == 200  # type: ignore[union-attr]
    page = second.new_page()
    assert page.goto(link).status == 401  # type: ignore[union-attr]
    page.get_by_text("`nightschool up` prints a new one").wait_for()
    assert page.goto(services.pages["prefect"]).status == 401  # type: ignore[union-attr]
    first.close()
    second.close()


def test_the_cookie_is_sent_to_no_other_name_and_shown_to_no_script(
    visitor: "BrowserContext", services: Services
) -> None:
    (cookie,) = [cookie for cookie in visitor.cookies() if cookie["name"] == "nightschool"]
    assert cookie["domain"] == Access.of(services.home).page_host
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page = visitor.new_page()
    page.goto(services.pages["prefect"])
    assert "nightschool=" not in page.evaluate("document.cookie")


def test_an_artifact_cannot_use_the_servers(page: "Page", tracked: Tracked, services: Services) -> None:
    """What MLflow shows was made from data that anybody may have written."""
    page.goto(tracked.run_page("", "artifacts/report.html"))
    page.frame_locator("iframe#html").get_by_role("heading", name="quickstart").wait_for()
    (frame,) = [frame for frame in page.frames if frame.parent_frame]
    path, body = CREATE["mlflow"]
    sent = {"method": "POST", "body": body, "headers": {"Content-Type": "application/json"}, "credentials": "include"}
    assert frame.evaluate(FETCH, [tracked.uri + path, sent])[0] == "error"
    assert traces(services) == []
