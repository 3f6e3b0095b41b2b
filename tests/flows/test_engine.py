"""The engines: threads, Dask and Ray do the same batches with the same bytes, and a killed worker changes nothing; a
cluster of this machine obeys nobody else and installs nothing."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from pydantic import ValidationError

from flows.engine import Engine
from tasks.core.batches import Batches
from tests.plain import run_corpus
from tests.prose import write_prose

ITEMS = [f"document {number}" for number in range(8)]


def digest(item: str, folder: Path) -> dict[str, Any]:
    """A batch that takes a moment and says which process does it."""
    (folder.parent / f"{folder.name.split('-')[1]}.{os.getpid()}.process").touch()
    time.sleep(0.3)
    content = hashlib.blake2b(item.encode()).hexdigest()
    (folder / "digest.txt").write_text(content)
    return {"first": content[0]}


@dataclass(frozen=True)
class Work:
    """What an engine put out."""

    batches: dict[str, str]
    """The files of the batches above, by path."""
    stages: dict[str, str]
    """The digests of all data stages."""


def stages(recipe: Path, home: Path) -> dict[str, str]:
    """The digests of all data stages, their batches done by the engine of the flow around us."""
    from tasks.core.run import submit_to_prefect

    return {outcome.node: outcome.digest for outcome in run_corpus(recipe, home, submit_to_prefect)}


def work(engine: Engine, folder: Path, recipe: Path, meanwhile: Callable[[], None] = lambda: None) -> Work:
    """Let one flow on this engine do the batches above and those of the data stages; `meanwhile` is called in between,
    while its workers are up."""
    from prefect import flow

    from tasks.core.run import submit_to_prefect

    @flow(name="work", task_runner=engine.task_runner())
    def everything() -> dict[str, str]:
        done = Batches(folder, submit_to_prefect).map("digest", digest, ITEMS)
        assert [batch.facts["first"] for batch in done] == [hashlib.blake2b(i.encode()).hexdigest()[0] for i in ITEMS]
        meanwhile()
        return stages(recipe, folder / "home")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSCHOOL_HOME", str(folder / "home"))
        digests = everything()
    files = {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.glob("digest/*/digest.txt"))}
    return Work(files, digests)


def kill_first_worker(folder: Path, killed: list[int]) -> None:
    """SIGKILL the first process that is seen at work on a batch."""
    while not killed:
        for mark in folder.glob("digest/*.process"):
            killed.append(int(mark.name.split(".")[1]))
            os.kill(killed[0], signal.SIGKILL)
            return
        time.sleep(0.01)


def expected() -> dict[str, str]:
    return {f"digest/{n:06d}/digest.txt": hashlib.blake2b(item.encode()).hexdigest() for n, item in enumerate(ITEMS)}


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Where Ray writes; a short path, since its sockets' names may have 107 letters."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred documents for all data stages."""
    folder = tmp_path_factory.mktemp("recipe")
    write_prose(folder / "texts", files=3, documents=200, seed=3)
    write_prose(folder / "evaluation", files=1, documents=10, seed=3)
    source = {"kind": "files", "name": "prose", "paths": [str(folder / "texts")]}
    settings = {
        "name": "engines",
        "ingest": {"sources": [source]},
        "filter": {"c4": {}, "fineweb": {"max_short_lines": None}},
        "decontaminate": {"sets": {"quiz": {"path": str(folder / "evaluation" / "0.jsonl")}}},
        "tokenizer": {"vocabulary": 400, "sample_megabytes": 0.1, "heldout": 0.2},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def by_one_thread(prefect_api: str, tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Work:
    return work(Engine(workers=1), tmp_path_factory.mktemp("one"), recipe)


def test_one_thread_does_every_batch_and_every_stage(by_one_thread: Work) -> None:
    assert by_one_thread.batches == expected()
    assert set(by_one_thread.stages) == {"ingest", "filter", "deduplicate", "decontaminate", "tokenizer", "tokenize"}


def test_several_threads_put_out_the_same_bytes(by_one_thread: Work, tmp_path: Path, recipe: Path) -> None:
    assert work(Engine(workers=3), tmp_path, recipe) == by_one_thread


INTRUDERS = {
    "dask": "from distributed import Client; print('inside', Client({address!r}, timeout=5).run(lambda: 1))",
    "ray": "import ray; ray.init({address!r}, log_to_driver=False); print('inside', ray.nodes())",
}


def cluster_address(kind: str) -> str:
    """What a stranger on this machine would find among the open ports."""
    if kind == "ray":
        import ray

        return str(ray.get_runtime_context().gcs_address)
    from prefect.context import FlowRunContext

    return str(FlowRunContext.get().task_runner.client.scheduler.address)  # type: ignore[union-attr]


def answered(ports: set[tuple[str, int]]) -> dict[str, bytes]:
    """What any of the ports tells a browser that knows no secret."""
    told = {}
    for host, port in ports:
        for path in ("/", "/metrics", "/json/identity.json", "/info/main/workers.html", "/api/v0/logs"):
            url = f"http://{'127.0.0.1' if host in ('::', '0.0.0.0') else host}:{port}{path}"
            try:
                answer = httpx.get(url, trust_env=False, timeout=5)
            except httpx.HTTPError:
                continue  # it does not speak HTTP
            if answer.status_code == 200:
                told[url] = answer.content
    return told


def listening() -> set[tuple[str, int]]:
    """Every port that this process and its descendants listen on."""
    me = psutil.Process()
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_cluster_survives_a_killed_worker_lets_nobody_else_in_and_puts_out_the_bytes_of_a_thread(
    by_one_thread: Work, tmp_path: Path, recipe: Path, ray_folder: Path, kind: str
) -> None:
    pytest.importorskip(f"prefect_{kind}", reason=f"the optional package prefect-{kind} is not installed")
    killed: list[int] = []
    killer = threading.Thread(target=kill_first_worker, args=(tmp_path, killed), daemon=True)
    killer.start()
    before = listening()  # another test's server

    def intrude() -> None:
        assert answered(listening() - before) == {}
        code = INTRUDERS[kind].format(address=cluster_address(kind).replace("tls://", "tcp://"))
        stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**stranger, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode != 0
        assert "inside" not in done.stdout

    assert work(Engine(kind=kind, workers=2), tmp_path, recipe, intrude) == by_one_thread  # type: ignore[arg-type]
    killer.join(5)
    assert killed
    assert killed[0] != os.getpid()
    # Under `uv run` Ray's own way is to build an environment of 7 GB here.
    assert sum(path.stat().st_size for path in ray_folder.rglob("*") if path.is_file()) < 200e6


def test_the_short_form_names_the_kind() -> None:
    assert Engine.model_validate("dask") == Engine(kind="dask")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "spark"}, "Input should be 'local', 'dask' or 'ray'"),
        ({"address": "tcp://scheduler:8786"}, "the local engine has no address; set `kind` to dask or ray"),
        ({"kind": "dask", "address": "tcp://a:1", "workers": 3}, "a running cluster has its own number of workers"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Engine.model_validate(settings)
