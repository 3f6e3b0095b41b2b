"""Two processes, gloo, on the CPU: the training of one process but for rounding, and bit-exact through kills.

The undisturbed groups are forked from one process that has imported torch and Lightning (multiprocessing's fork
server), with the environment that torchrun would set; the killed one goes through the real supervisor and torchrun.
"""

import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest

from models.process.outcome import told
from models.process.progress import read_reports
from models.spec import FitSpec, Machine
from models.text.model_folder import load_model
from tasks.core.errors import StageError
from tasks.training.supervise import supervise
from tests.models.shards import file_bytes, stream_spec
from tests.tasks.conftest import HeardLog

STEPS = 150
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["models.fit", "tests.models.test_distributed"])


def one_of(spec: Path, environment: dict[str, str]) -> None:
    """What torchrun would execute."""
    import torch

    from models.fit import main

    os.environ |= environment
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    sys.exit(main([str(spec)]))


def started(spec: FitSpec, world: int) -> list[BaseProcess]:
    """So many processes at work on the spec."""
    spec.work.mkdir(parents=True, exist_ok=True)
    file = spec.work / "spec.json"
    file.write_text(spec.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # What Lightning knows torchrun by, and what keeps the processes' talk on this machine.
    common |= {"TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo", "GROUP_RANK": "0"}
    group: list[BaseProcess] = [
        server.Process(target=one_of, args=(file, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
        for rank in range(world)
    ]
    for process in group:
        process.start()
    return group


def train(spec: FitSpec, world: int, code: int = 0) -> FitSpec:
    """Run the spec by so many processes, all of which end with the code."""
    return ended(spec, started(spec, world), code)


def ended(spec: FitSpec, group: list[BaseProcess], code: int = 0) -> FitSpec:
    for process in group:
        process.join(120)
    said = [path.read_text() for path in sorted(spec.work.glob("stderr-*.txt"))]
    assert [process.exitcode for process in group] == [code] * len(group), said
    # tasks/training/torchrun.py silences DDP's advice before torch is imported, which is too late here.
    lines = [line for text in said for line in text.splitlines() if "find_unused_parameters" not in line]
    assert code or lines == []
    return spec


def stopped_after(spec: FitSpec, group: list[BaseProcess], step: int) -> None:
    """Ask the last of the group alone to stop; all save and end."""
    while sum(1 for _ in read_reports(spec.work / "progress.jsonl")) < step and group[0].is_alive():
        time.sleep(0.005)
    group[-1].terminate()
    ended(spec, group, code=75)
    assert sum(1 for _ in read_reports(spec.work / "progress.jsonl")) < STEPS


def several(folder: Path, strategy: str = "ddp", **changes: object) -> FitSpec:
    machine = Machine(precision="float32", devices=2, strategy=strategy)  # type: ignore[arg-type]
    given: dict[str, Any] = {"machine": machine, "steps": STEPS, "checkpoint_every": 20, **changes}
    return stream_spec(folder, **given)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> FitSpec:
    return train(several(tmp_path_factory.mktemp("alone")), 1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> FitSpec:
    return train(several(tmp_path_factory.mktemp("pair")), 2)


def losses(spec: FitSpec) -> np.ndarray:
    return pl.read_parquet(spec.out / "losses.parquet")["loss"].to_numpy()


def assert_same_but_for_rounding(spec: FitSpec, other: FitSpec) -> None:
    np.testing.assert_allclose(losses(spec)[:20], losses(other)[:20], rtol=1e-5)
    np.testing.assert_allclose(losses(spec), losses(other), rtol=2e-3)
    weights = load_model(other.out).state_dict()
    for name, value in load_model(spec.out).state_dict().items():
        np.testing.assert_allclose(value.numpy(), weights[name].numpy(), atol=5e-3, err_msg=name)


def test_two_processes_learn_what_one_does(alone: FitSpec, pair: FitSpec) -> None:
    assert_same_but_for_rounding(pair, alone)
    assert [report.step for report, _ in read_reports(pair.work / "progress.jsonl")] == list(range(1, STEPS + 1))


def test_pieces_of_a_batch_add_up_over_processes_too(tmp_path: Path, alone: FitSpec) -> None:
    assert_same_but_for_rounding(train(several(tmp_path, accumulate=2), 2), alone)


def test_a_divided_model_learns_what_a_whole_one_does(tmp_path: Path, alone: FitSpec) -> None:
    assert_same_but_for_rounding(train(several(tmp_path, strategy="fsdp"), 2), alone)


def test_a_group_that_fails_says_why_and_not_that_the_others_are_gone(tmp_path: Path) -> None:
    spec = several(tmp_path)
    spec.data.sources[0].shards[0].write_bytes(b"rubbish")  # type: ignore[union-attr]
    end = told(train(spec, 2, code=1).work)
    assert end is not None and end.kind == "failed"
    assert "train-00000.arrow is not a readable Arrow file" in end.sentence


@pytest.mark.slow
def test_three_processes_stop_together_when_one_is_asked_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    """Three numbers have several sums: their order must not depend on when a process began."""
    undisturbed = train(several(tmp_path / "undisturbed", batch=9), 3)
    spec = several(tmp_path / "stopped", batch=9)
    stopped_after(spec, started(spec, 3), 10)
    train(spec, 3)
    assert file_bytes(spec.out) == file_bytes(undisturbed.out)


def when_at_work(spec: FitSpec, after_step: int, act: Callable[[psutil.Process], None]) -> threading.Thread:
    """Do something to torchrun once the training has reported a step."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.02)
            if not any(report.step > after_step for report, _ in read_reports(spec.work / "progress.jsonl")):
                continue
            for child in psutil.Process().children():
                if str(spec.work / "spec.json") in child.cmdline():
                    act(child)
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def rank_1(launcher: psutil.Process) -> psutil.Process:
    return next(child for child in launcher.children() if child.environ().get("RANK") == "1")


@pytest.mark.slow
def test_a_killed_process_and_a_stopped_group_go_on_to_the_same_bits(tmp_path: Path) -> None:
    """Longer than the others, so that the kill strikes in the middle."""
    steps = 800
    spec, log = several(tmp_path / "killed", steps=steps), HeardLog()
    killer = when_at_work(spec, 30, lambda launcher: rank_1(launcher).kill())
    stopper = when_at_work(spec, 200, lambda launcher: launcher.terminate())
    with pytest.raises(StageError, match=rf"stopped and saved at step \d+ of {steps}"):
        supervise(spec, log)
    killer.join()
    stopper.join()
    assert [line for line in log.lines if "killed by SIGKILL" in line and "starting again from its last" in line]
    newest = max((spec.work / "checkpoints").iterdir())
    assert int(newest.name.removeprefix("step-")) == sum(1 for _ in read_reports(spec.work / "progress.jsonl")) < steps
    supervise(spec, log)
    undisturbed = train(several(tmp_path / "undisturbed", steps=steps), 2)
    assert file_bytes(spec.out) == file_bytes(undisturbed.out)
    assert [report.step for report, _ in read_reports(spec.work / "progress.jsonl")] == list(range(1, steps + 1))


def test_a_group_resumed_by_one_process_says_that_rounding_differs(tmp_path: Path, alone: FitSpec) -> None:
    from models.fit import fit

    spec = several(tmp_path)
    stopped_after(spec, started(spec, 2), 10)
    said: list[str] = []
    assert fit(spec, say=said.append).first_step < STEPS
    assert any("Begun with 2 processes and going on with 1: the same windows a step" in line for line in said)
    assert_same_but_for_rounding(spec, alone)
