"""What a kill leaves of compiled code is not loaded again, and a processor is what its libraries were told it is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from models.machine.hardware import bf16_units, choose_precision, sweep_code

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
    monkeypatch.setattr(time, "sleep", lambda seconds: written.write_bytes(WHOLE.read_bytes()))
    sweep_code(tmp_path)
    assert written.read_bytes() == WHOLE.read_bytes()


def processor(monkeypatch: pytest.MonkeyPatch, *units: str, kernels: str = "AVX512", **variables: str) -> None:
    """Play a processor that has these units, whose torch uses these kernels."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(units, True))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_bf16_is_for_processors_with_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx2", "avx512_f")
    assert choose_precision("auto") == ("float32", "the processor has no bf16 units")
    assert choose_precision("bf16")[0] == "bf16"
    processor(monkeypatch, "avx512_f", "avx512_bf16")
    assert choose_precision("auto") == ("bf16", "the processor has avx512_bf16")
    processor(monkeypatch, "arm_bf16", kernels="DEFAULT")
    assert choose_precision("auto") == ("bf16", "the processor has arm_bf16")


@pytest.mark.parametrize(
    ("variables", "units"),
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, None),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core_vnni"}, None),
        ({"DNNL_MAX_CPU_ISA": "AVX2_VNNI_2"}, None),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "DNNL_MAX_CPU_ISA": "AVX2"}, "avx512_bf16"),
        ({"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, "avx512_bf16"),
        ({"ONEDNN_MAX_CPU_ISA": "no such name"}, "avx512_bf16"),
    ],
)
def test_units_that_onednn_is_told_not_to_use_do_not_count(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], units: str | None
) -> None:
    processor(monkeypatch, "avx512_bf16", **variables)
    assert bf16_units() == units


@pytest.mark.parametrize("kernels", ["DEFAULT", "AVX2"])
def test_units_that_torch_is_told_not_to_use_do_not_count(monkeypatch: pytest.MonkeyPatch, kernels: str) -> None:
    processor(monkeypatch, "avx512_bf16", kernels=kernels)
    assert bf16_units() is None


def test_torch_says_what_it_was_told() -> None:
    code = "from models.machine.hardware import bf16_units; print(bf16_units())"
    told = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
    end = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)
    assert end.stdout.strip() in ("None", "arm_bf16", "bf16")
