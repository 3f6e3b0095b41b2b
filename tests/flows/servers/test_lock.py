"""Every port that we listen on refuses whoever is not the owner, and programs of the owner are let in."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from flows.servers.access import LINK_AGE_S, Access, make_home
from flows.servers.connection import auth_string, connect_tracking
from flows.servers.prefect import PrivateServer, environment, pool_template
from flows.servers.services import Service, Services, down, end_unlocked, running, up
from tasks.core.processes import identity
from tests.prefect_database import with_database
from tests.tiny import Commands

PARTS = ("prefect", "mlflow", "private")
NOBODY = 65534
HEALTH = {"prefect": "/api/health", "private": "/api/health", "mlflow": "/health"}
READS = ["/", "/api/health", "/health", "/version", "/api/admin/version", "/api/2.0/mlflow/experiments/search", "/docs"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks") / "it's a home"


@pytest.fixture(scope="module")
def services(home: Path, prefect_database: Path) -> Iterator[Services]:
    """`up` in a home whose work pool an earlier version made."""
    make_home(with_database(home, prefect_database))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home / "prefect"))  # Prefect makes its folder when it is first imported
        with PrivateServer.start(home) as earlier:
            pool = {"name": "nightschool", "type": "process", "base_job_template": {}}
            own = {"Authorization": Access.of(home).authorization}
            made = httpx.post(f"{earlier.wait()}/work_pools/", json=pool, headers=own, trust_env=False)
            assert made.status_code == 201
        yield up(home)
        down(home)


@pytest.fixture(scope="module")
def urls(home: Path, services: Services) -> Iterator[Mapping[str, str]]:
    """The addresses of all servers that we start."""
    with PrivateServer.start(home) as private:
        private.wait()
        yield {
            "prefect": str(services.prefect_url),
            "mlflow": str(services.mlflow_url),
            "private": private.api_url.removesuffix("/api"),
        }


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def access(home: Path) -> Access:
    return Access.of(home)


def ask(url: str, method: str = "GET", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, url, headers=named, trust_env=False)


def socket_paths() -> list[str]:
    """All WebSockets of Prefect's API."""
    from fastapi.routing import APIWebSocketRoute
    from prefect.server.api.server import API_ROUTERS

    routes = [route for router in API_ROUTERS for route in router.routes if isinstance(route, APIWebSocketRoute)]
    return [f"/api{route.path.replace('{work_pool_name}', 'nightschool')}" for route in routes]


def test_the_secret_lets_a_program_in(urls: Mapping[str, str], access: Access, part: str) -> None:
    url = urls[part]
    assert ask(url + HEALTH[part], authorization=access.authorization).status_code == 200
    own = ask(url + HEALTH[part], authorization=access.authorization, origin=url)
    assert own.status_code == 200
    assert own.headers.get("access-control-allow-origin") in (None, url)


@pytest.mark.parametrize(
    "credentials",
    ["", "Basic", "Basic bmlnaHRzY2hvb2w6", "Basic bmlnaHRzY2hvb2w6d3Jvbmc=", "Bearer {token}", "Basic ünsinn"],
    ids=["none", "empty", "no password", "wrong password", "as bearer", "no base64"],
)
@pytest.mark.parametrize("path", READS)
def test_without_the_secret_nothing_is_answered(
    urls: Mapping[str, str], access: Access, part: str, path: str, credentials: str
) -> None:
    sent = credentials.format(token=access.authorization.split()[1]).encode()
    answer = httpx.get(urls[part] + path, headers={b"authorization": sent} if sent else {}, trust_env=False)
    assert answer.status_code == 401
    assert answer.text.startswith("Nightschool: this needs the home's secret")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "a.localhost",
     "evil.{name}", "127.0.0.2", "0.0.0.0", "", "127.0.0.1@evil.example"],
)  # fmt: skip
def test_a_foreign_host_is_refused_even_with_the_secret(
    urls: Mapping[str, str], access: Access, part: str, host: str
) -> None:
    host = host.format(port=urls[part].rpartition(":")[2], name=access.page_host)
    answer = ask(urls[part] + HEALTH[part], authorization=access.authorization, host=host)
    assert answer.status_code in (400, 403)
    assert "true" not in answer.text and "OK" not in answer.text


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "http://localhost:{port}",
     "http://127.0.0.1", "http://127.0.0.1:{port}.evil.example", "http://{name}:{port}", "file://", ""],
)  # fmt: skip
def test_a_foreign_origin_is_refused_even_with_the_secret(
    urls: Mapping[str, str], access: Access, part: str, origin: str
) -> None:
    origin = origin.format(port=urls[part].rpartition(":")[2], name=access.page_host)
    for method in ("GET", "POST", "OPTIONS"):
        answer = ask(urls[part] + HEALTH[part], method, authorization=access.authorization, origin=origin)
        assert answer.status_code == 403
    preflight = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    refused = ask(urls[part] + HEALTH[part], "OPTIONS", origin=origin, **preflight)
    assert refused.status_code == 403
    assert not [name for name in refused.headers if name.startswith("access-control")]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_calls_foreign_is_refused_even_with_the_secret(
    urls: Mapping[str, str], access: Access, part: str, site: str
) -> None:
    url = urls[part] + HEALTH[part]
    for mode, dest in (("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe"), ("cors", "empty")):
        sent = {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": dest}
        assert ask(url, authorization=access.authorization, **sent).status_code == 403
    visit = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask(url, authorization=access.authorization, **visit).status_code == 200
    assert ask(url, "POST", authorization=access.authorization, **visit).status_code == 403


def test_a_session_counts_under_the_name_of_the_pages_only(urls: Mapping[str, str], access: Access, part: str) -> None:
    port = int(urls[part].rpartition(":")[2])
    link = access.make_link(port).replace(access.page_host, "127.0.0.1")
    assert ask(link).status_code == 401, "a link is one of the pages' name"
    entered = ask(link, host=f"{access.page_host}:{port}")
    assert entered.status_code == 200
    cookie = entered.headers["set-cookie"].partition(";")[0]
    url = urls[part] + HEALTH[part]
    assert ask(url, host=f"{access.page_host}:{port}", cookie=cookie).status_code == 200
    assert ask(url, cookie=cookie).status_code == 401
    assert ask(url, host=f"{access.page_host}:{port}", cookie=cookie + "x").status_code == 401
    foreign = ask(url, host=f"{access.page_host}:{port}", cookie=cookie, origin=f"http://{access.page_host}:1")
    assert foreign.status_code == 403


def test_a_link_works_once_for_ten_minutes_and_only_a_visit_uses_it_up(services: Services, access: Access) -> None:
    host = {"host": access.page_host}

    def visit(link: str, method: str = "GET") -> int:
        return ask(link.replace(access.page_host, "127.0.0.1"), method, **host).status_code

    first, second = services.make_link(), services.make_link()
    assert [visit(first, "HEAD"), visit(first, "POST"), visit(first), visit(first)] == [401, 401, 200, 401]
    assert visit(second) == 200
    old = services.make_link()
    (kept,) = (access.home / "access" / "links").iterdir()
    made = kept.stat().st_mtime
    os.utime(kept, (made, made - LINK_AGE_S - 1))
    assert visit(old) == 401
    assert [visit(f"http://127.0.0.1:{first.split(':')[2][:4]}/enter{query}") for query in ("", "?once=")] == [401, 401]


def test_the_pages_name_is_held_on_ipv6_too(urls: Mapping[str, str], access: Access, part: str) -> None:
    """Browsers try it first."""
    url = urls[part].replace("127.0.0.1", "[::1]") + HEALTH[part]
    try:
        assert ask(url).status_code == 401
        assert ask(url, authorization=access.authorization).status_code == 200
    except httpx.ConnectError:
        assert "::1" not in {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}


def test_up_listens_on_loopback_only_and_beside_its_servers_for_the_workers_own_runs(services: Services) -> None:
    """By that channel Prefect's worker tells its runs that they are cancelled; each run has a token of its own."""
    listening = set()
    for part in services.parts:
        process = part.process()
        assert process
        for member in [process, *process.children(recursive=True)]:
            for wire in member.net_connections("inet"):
                if wire.status == psutil.CONN_LISTEN:
                    listening.add((part.name, wire.laddr.ip, wire.laddr.port))
    assert {ip for _, ip, _ in listening} <= {"127.0.0.1", "::1"}
    ports = {name: {port for found, _, port in listening if found == name} for name, _, _ in listening}
    assert ports["prefect"] == {int(str(services.prefect_url).rpartition(":")[2])}
    assert ports["mlflow"] == {int(str(services.mlflow_url).rpartition(":")[2])}
    (channel,) = ports["worker"]
    for said in (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"a" * 4096):
        with socket.create_connection(("127.0.0.1", channel), timeout=20) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            try:
                heard = stranger.recv(100)
            except ConnectionResetError:  # closed before all was read
                heard = b""
        assert heard == b""


def test_another_user_of_the_machine_gets_nothing(urls: Mapping[str, str], home: Path, part: str) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may act as another user")
    port = urls[part].rpartition(":")[2]
    script = (
        f"cat {shlex.quote(str(home / 'access' / 'secret.json'))} || ls {shlex.quote(str(home))}\n"
        f"exec 3<>/dev/tcp/127.0.0.1/{port}\n"
        f"printf 'GET {HEALTH[part]} HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nConnection: close\\r\\n\\r\\n' >&3\n"
        "head -1 <&3"
    )
    done = subprocess.run(["bash", "-c", script], user=NOBODY, group=NOBODY, cwd="/", capture_output=True, text=True)
    assert done.stdout.strip() == "HTTP/1.1 401 Unauthorized"
    assert done.stderr.count("Permission denied") == 2


@pytest.mark.parametrize("server", ["prefect", "private"])
def test_a_websocket_is_refused_to_strangers(urls: Mapping[str, str], access: Access, server: str) -> None:
    own = {"Authorization": access.authorization}
    strangers: list[dict[str, Any]] = [
        {},
        {"additional_headers": {"Authorization": "Basic d3Jvbmc="}},
        {"origin": Origin("http://evil.example"), "additional_headers": own},
        {"origin": Origin("null"), "additional_headers": own},
        {"origin": Origin("http://evil.example"), "subprotocols": [Subprotocol("prefect")]},
        {"origin": Origin(urls[server]), "subprotocols": [Subprotocol("prefect")]},
    ]
    paths = socket_paths()
    assert len(paths) >= 5
    for path in paths:
        for stranger in strangers:
            with pytest.raises(InvalidStatus, match="403"):
                connect(f"{urls[server].replace('http', 'ws')}{path}", proxy=None, **stranger)
        wire = socket.create_connection(("127.0.0.1", int(urls[server].rpartition(":")[2])))
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"ws://evil.example{path}", sock=wire, proxy=None, additional_headers=own)


@pytest.mark.parametrize("server", ["prefect", "private"])
def test_a_websocket_of_a_program_opens_with_the_secret_as_its_first_message(
    urls: Mapping[str, str], access: Access, server: str
) -> None:
    for path in socket_paths():
        url = f"{urls[server].replace('http', 'ws')}{path}"
        for first in (
            {"type": "auth", "token": "wrong"},
            {"type": "auth", "token": None},
            {"type": "auth"},
            {"type": "filter"},
            ["auth"],
        ):
            with connect(url, subprotocols=[Subprotocol("prefect")], proxy=None) as opened:
                opened.send(json.dumps(first))
                with pytest.raises(ConnectionClosed) as closed:
                    opened.recv(timeout=10)
                assert closed.value.rcvd and closed.value.rcvd.code == 1008
        with connect(url, subprotocols=[Subprotocol("prefect")], proxy=None) as opened:
            opened.send(json.dumps({"type": "auth", "token": access.auth_string}))
            assert json.loads(opened.recv(timeout=10)) == {"type": "auth_success"}


def test_mlflow_has_no_websocket(urls: Mapping[str, str]) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"{urls['mlflow'].replace('http', 'ws')}/", proxy=None)


def test_stock_clients_work_with_what_up_prints(services: Services, home: Path) -> None:
    program = (
        "from mlflow import MlflowClient; from prefect.client.orchestration import get_client; import prefect\n"
        "print([e.name for e in MlflowClient().search_experiments()])\n"
        "with get_client(sync_client=True) as client: print([pool.name for pool in client.read_work_pools()])\n"
    )
    commands = [
        f". {shlex.quote(str(services.clients_file))}",
        f"{sys.executable} -m prefect work-pool ls",
        f"{sys.executable} -m mlflow experiments search",
        f"{sys.executable} -c {shlex.quote(program)}",
    ]
    done = subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "['Default']\n['nightschool']\n" in done.stdout


@pytest.mark.parametrize(
    "asked",
    [{"command": "touch /tmp/x"}, {"env": {"PYTHONPATH": "/tmp"}}, {"env": {"NIGHTSCHOOL_HOME": "/tmp"}},
     {"env.LD_PRELOAD": "/tmp/x.so"}, {"stream_output": False}, {"labels": {"a": "b"}}, {"name": "x"}],
)  # fmt: skip
def test_a_deployment_may_not_say_how_its_runs_are_executed(
    services: Services, access: Access, asked: dict[str, Any]
) -> None:
    sent: dict[str, Any] = {"headers": {"Authorization": access.authorization}, "trust_env": False}
    flow = httpx.post(f"{services.api_url}/flows/", json={"name": "asks"}, **sent).json()["id"]
    body = {"name": "asks", "flow_id": flow, "work_pool_name": "nightschool", "job_variables": asked}
    answer = httpx.post(f"{services.api_url}/deployments/", json=body, **sent)
    assert (answer.status_code, "Error creating deployment" in answer.text) == (422, True)


def test_the_pool_of_an_earlier_version_is_mended(services: Services, home: Path, access: Access) -> None:
    found = ask(f"{services.api_url}/work_pools/nightschool", authorization=access.authorization).json()
    assert found["base_job_template"] == pool_template(home)


def test_servers_of_an_earlier_version_are_ended_with_their_worker(tmp_path: Path) -> None:
    code = (
        "import http.server; handler = http.server.SimpleHTTPRequestHandler\n"
        "handler.do_GET = lambda self: (self.send_response(200), self.end_headers())\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), handler); print(server.server_port, flush=True)\n"
        "server.serve_forever()"
    )
    with (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as open_server,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker,
    ):
        assert open_server.stdout
        url = f"http://127.0.0.1:{int(open_server.stdout.readline())}"
        parts = [
            Service(name, process.pid, identity(process.pid) or "", url, "")
            for name, process in (("mlflow", open_server), ("worker", worker))
        ]
        end_unlocked(parts)
        assert [part.process() for part in parts] == [None, None]


def test_the_worker_would_not_listen_to_a_deployment_that_did(home: Path) -> None:
    import asyncio

    from prefect.workers.process import ProcessJobConfiguration

    asked = {"command": "touch /tmp/x", "env": {"PYTHONPATH": "/tmp"}, "working_dir": "/work", "labels": {"a": "b"}}
    nobody: Any = object()
    made = ProcessJobConfiguration.from_template_and_values(pool_template(home), asked, client=nobody)
    with ThreadPoolExecutor(1) as thread:  # a browser test before this one may have left a loop running in ours
        configuration: Any = thread.submit(asyncio.run, made).result()
    assert (configuration.command, configuration.env, configuration.labels) == (None, {}, {})
    assert configuration.working_dir == Path("/work")


def test_the_secret_is_told_to_nobody(services: Services, home: Path, access: Access) -> None:
    commands = Commands(home, home / "no-recipe.yaml")
    again = commands.json("up")
    assert set(again) == {"parts", "pages", "link", "clients"}
    told = json.dumps(again) + json.dumps(commands.json("status")) + (home / "services.json").read_text()
    for log in (home / "logs").iterdir():
        told += log.read_text()
    for part in services.parts:
        process = part.process()
        assert process
        told += " ".join(process.cmdline())
    assert access.secret not in told
    assert access.authorization.split()[1] not in told
    assert holding(home) == {"access/secret.json", "clients.sh"}


def test_somebody_elses_servers_are_not_told_the_secret(
    services: Services, home: Path, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "nightschool")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", access.secret)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", access.auth_string)  # as in a shell that has read clients.sh
    assert connect_tracking(home) == "http://mlflow.example"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("", "")
    elsewhere = environment(home, "http://prefect.example/api", ours=False)
    assert elsewhere["PREFECT_API_AUTH_STRING"] == ""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "nightschool")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "their own")
    connect_tracking(home)
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "nightschool"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "their own"
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "their:own")
    assert auth_string(home, "http://prefect.example/api") == "their:own"
    assert auth_string(home, str(services.api_url)) == access.auth_string


def test_nothing_in_the_home_of_running_servers_is_for_others(services: Services, home: Path) -> None:
    assert (home / "prefect" / "ui").is_dir(), "Prefect copies its pages"
    assert open_to_others(home) == []


def test_a_homes_access_is_made_once_and_an_open_home_is_closed(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    tmp_path.chmod(0o755)
    with ThreadPoolExecutor() as pool:
        made = set(pool.map(Access.of, [tmp_path] * 8))
    assert len(made) == 1
    before = os.umask(0o022)
    make_home(tmp_path)
    assert os.umask(before) == 0o077
    assert open_to_others(tmp_path) == []


def test_a_finished_night_leaves_nothing_for_others_and_listened_on_its_private_server_only(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = finished
    assert open_to_others(folder / "home") == []
    assert holding(folder / "home") == {"access/secret.json"}
    (holders,) = json.loads((folder / "listened.json").read_text()).values()
    assert set(holders) - {"flows.cli"} == {"flows.servers.prefect"}  # to which the command line hands its socket over


def holding(home: Path) -> set[str]:
    """The files of a home in which its secret stands, as it is or as it is sent."""
    access = Access.of(home)
    needles = access.secret.encode(), access.authorization.split()[1].encode()
    files = [path for path in home.rglob("*") if path.is_file()]
    return {str(file.relative_to(home)) for file in files if any(needle in file.read_bytes() for needle in needles)}


def open_to_others(folder: Path) -> list[str]:
    """What lies in a folder, itself included, and has a bit for the group or for others."""
    return [
        str(path) for path in [folder, *folder.rglob("*")] if path.lstat().st_mode & 0o077 and not path.is_symlink()
    ]


def test_down_locks_out_browsers_and_shells(services: Services, home: Path, access: Access) -> None:
    """The last test: it ends the servers."""
    cookie = access.redeem(services.make_link().partition("=")[2])
    assert cookie and access.is_session(cookie)
    unused = services.make_link().partition("=")[2]
    down(home)
    assert running(home) is None
    assert not access.is_session(cookie)
    assert access.redeem(unused) is None
    assert not services.clients_file.exists()
