"""Whose a work folder is, and with which choices."""

import json
from pathlib import Path

import pytest

from models.machine.ranks import Ranks
from models.process import work_folder as module
from models.process.work_folder import Bits, claim
from tests.models.shards import stream_spec

ALONE = Ranks()
BITS = Bits("float32", compiled=False, threads=2, world=1)


def test_choices_are_kept_for_whoever_goes_on(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    spec.work.mkdir()
    with claim(spec, ALONE) as first:
        assert first.begun is None
        assert first.keep(BITS, {"name": "a machine"}) == BITS
    with claim(spec, ALONE) as second:
        assert second.begun == BITS
    assert json.loads((spec.work / "training.json").read_text())["machine"] == {"name": "a machine"}


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    spec = stream_spec(tmp_path)
    spec.work.mkdir()
    with claim(spec, ALONE), pytest.raises(ValueError, match="Another process is training in"), claim(spec, ALONE):
        pass


def test_where_and_on_how_many_devices_is_no_other_training(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    spec.work.mkdir()
    with claim(spec, ALONE) as first:
        first.keep(BITS, {})
    moved = {
        "cache": tmp_path,
        "out": tmp_path,
        "workers": 2,
        "machine": spec.machine.model_copy(update={"devices": 4}),
    }
    with claim(spec.model_copy(update=moved), ALONE) as second:
        assert second.begun == BITS
