"""How many processes a training gets, and what they see."""

import os
import sys
from pathlib import Path

import pytest

from models.spec import Machine
from tasks.training import torchrun as launch
from tasks.training.torchrun import command, environment, processes_for
from tests.models.shards import stream_spec


def test_one_process_is_started_as_it_is_and_several_by_torchrun(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    last = ["models.fit", str(spec.work / "spec.json"), str(os.getpid())]
    assert command(spec, 1) == [sys.executable, "-m", *last]
    several = command(spec, 2)
    assert several[1:3] == ["-m", "torch.distributed.run"] and several[-3:] == last
    assert several[several.index("--nproc-per-node") + 1] == "2"


def test_every_gpu_gets_a_process_as_far_as_the_batch_can_be_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gpus, accumulate, processes in ((0, 1, 1), (1, 1, 1), (3, 1, 2), (8, 1, 8), (8, 4, 2), (16, 1, 8)):
        monkeypatch.setattr(launch, "_gpus", lambda gpus=gpus: gpus)
        assert processes_for(stream_spec(tmp_path, accumulate=accumulate)) == processes  # of a batch of 8
    assert processes_for(stream_spec(tmp_path, machine=Machine(devices=5))) == 5


def test_processes_share_the_cores_and_talk_on_this_machine_only() -> None:
    assert "OMP_NUM_THREADS" not in environment(1, {})
    shared = environment(2, {})
    assert int(shared["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)
    assert shared["GLOO_SOCKET_IFNAME"] == "lo"
    assert environment(2, {"OMP_NUM_THREADS": "7", "PYTHONPATH": "/x"})["OMP_NUM_THREADS"] == "7"
    assert environment(1, {"PYTHONPATH": "/x"})["PYTHONPATH"].endswith(":/x")
