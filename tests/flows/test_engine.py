"""The engines: threads, Dask and Ray do the same batches with the same bytes, and a killed worker changes nothing."""

import hashlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from flows.engine import Engine
from tasks.core.batches import Batches
from tests.plain import PlainRun
from tests.prose import write_prose

ITEMS = [f"document {number}" for number in range(8)]


def digest(item: str, folder: Path) -> dict[str, Any]:
    """A batch that takes a moment and says which process does it."""
    (folder.parent / f"{folder.name.split('-')[1]}.{os.getpid()}.process").touch()
    time.sleep(0.3)
    content = hashlib.blake2b(item.encode()).hexdigest()
    (folder / "digest.txt").write_text(content)
    return {"first": content[0]}


def run(engine: Engine, folder: Path) -> dict[str, str]:
    """The files that the engine's batches wrote, by path."""
    from prefect import flow

    from tasks.core.run import submit_to_prefect

    @flow(name="batches", task_runner=engine.task_runner())
    def batches() -> None:
        done = Batches(folder, submit_to_prefect).map("digest", digest, ITEMS)
        assert [batch.facts["first"] for batch in done] == [hashlib.blake2b(i.encode()).hexdigest()[0] for i in ITEMS]

    batches()
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.glob("digest/*/digest.txt"))}


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


@pytest.mark.usefixtures("prefect_api")
def test_threads_do_every_batch(tmp_path: Path) -> None:
    assert run(Engine(), tmp_path) == expected()


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_cluster_does_the_same_and_a_killed_worker_changes_nothing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray leaves a token in the developer's home
    pytest.importorskip(f"prefect_{kind}", reason=f"the optional package prefect-{kind} is not installed")
    killed: list[int] = []
    killer = threading.Thread(target=kill_first_worker, args=(tmp_path, killed), daemon=True)
    killer.start()
    assert run(Engine(kind=kind, workers=2), tmp_path) == expected()  # type: ignore[arg-type]
    killer.join(5)
    assert killed
    assert killed[0] != os.getpid()


def corpus_digests(engine: Engine, recipe: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The digests of all data stages, their batches done by this engine under Prefect."""
    monkeypatch.setenv("NIGHTSCHOOL_HOME", str(home))
    from flows.corpus import corpus
    from flows.recipe import load_recipe
    from tasks.core.run import submit_to_prefect
    from tasks.core.stage import context

    run = PlainRun(home)
    run.submit = submit_to_prefect
    token = context.set(run)
    try:
        corpus.with_options(task_runner=engine.task_runner())(load_recipe(recipe))
    finally:
        context.reset(token)
    return {outcome.node: outcome.digest for outcome in run.outcomes}


@pytest.mark.usefixtures("prefect_api")
def test_the_data_stages_put_out_the_same_bytes_on_threads_dask_and_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    write_prose(tmp_path / "texts", files=3, documents=200, seed=3)
    write_prose(tmp_path / "evaluation", files=1, documents=10, seed=3)
    source = {"kind": "files", "name": "prose", "paths": [str(tmp_path / "texts")]}
    settings = {
        "name": "engines",
        "ingest": {"sources": [source]},
        "filter": {"c4": {}, "fineweb": {"max_short_lines": None}},
        "decontaminate": {"sets": {"quiz": {"path": str(tmp_path / "evaluation" / "0.jsonl")}}},
        "tokenizer": {"vocabulary": 400, "sample_megabytes": 0.1, "heldout": 0.2},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    digests = {
        f"{engine.kind} {engine.workers}": corpus_digests(engine, recipe, tmp_path / f"home-{number}", monkeypatch)
        for number, engine in enumerate(
            [Engine(workers=1), Engine(workers=3), Engine(kind="dask", workers=2), Engine(kind="ray", workers=2)]
        )
    }
    assert set(digests["local 1"]) == {"ingest", "filter", "deduplicate", "decontaminate", "tokenizer", "tokenize"}
    assert list(digests.values()) == [digests["local 1"]] * 4


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
