"""What a kill leaves of compiled code is not loaded again."""

import os
import time
from pathlib import Path

import pytest
import torch

from models import hardware
from models.hardware import sweep_code

WHOLE = next((Path(torch.__file__).parent / "lib").glob("libtorch_python.so*"))


def library(path: Path, content: bytes, age_s: float = 60.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_half_written_libraries_are_removed_and_whole_ones_stay(tmp_path: Path) -> None:
    content = WHOLE.read_bytes()
    whole = library(tmp_path / "ab" / "whole.main.so", content)
    stumps = [
        library(tmp_path / "cd" / f"{length}.main.so", content[:length]) for length in (0, 63, 5000, len(content) // 2)
    ]
    unfilled = library(tmp_path / "unfilled.so", bytes(5000))
    sweep_code(tmp_path)
    assert whole.exists()
    assert not any(stump.exists() for stump in (*stumps, unfilled))
    sweep_code(tmp_path / "nowhere")


def test_a_library_that_is_being_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = library(tmp_path / "one.so", b"", age_s=0.0)
    monkeypatch.setattr(hardware.time, "sleep", lambda seconds: written.write_bytes(WHOLE.read_bytes()))
    sweep_code(tmp_path)
    assert written.read_bytes() == WHOLE.read_bytes()
