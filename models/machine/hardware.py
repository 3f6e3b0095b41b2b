"""Fits the process to its machine: what its processor has, how it compiles, how the allocator treats large blocks."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
import struct
import time
from pathlib import Path
from typing import Any, Literal

import torch

Arithmetic = Literal["bf16", "float32"]
_LINK_S = 10.0
_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""What oneDNN can be held to that has no bf16 products; it ignores case, and names that it does not know."""


def device() -> torch.device:
    """Where weights and batches go."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(asked: Literal["auto", "bf16", "float32"]) -> tuple[Arithmetic, str]:
    """The arithmetic and, for the log, why.

    bf16 matrix products run 9 times faster than float32 ones on a Zen 5 core with AVX-512 BF16 (a training step of
    the quickstart's model: 2.4 times), and slower on processors that only emulate them.
    """
    if asked != "auto":
        return asked, "as the settings ask"
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", f"{torch.cuda.get_device_name()} has bf16 units"
        return "float32", f"{torch.cuda.get_device_name()} has no bf16 units"
    if units := bf16_units():
        return "bf16", f"the processor has {units}"
    return "float32", "the processor has no bf16 units"


def bf16_units() -> str | None:
    """The instructions by which this process may multiply bf16 on its processor, or None.

    A newer processor that is told to behave as an older one counts as one: ATEN_CPU_CAPABILITY=avx2 binds torch's own
    kernels and Inductor's, ONEDNN_MAX_CPU_ISA=AVX2 (or DNNL_MAX_CPU_ISA) the matrix products.
    """
    has = torch.cpu.get_capabilities()
    bound = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    held = bound.upper() in _WITHOUT_BF16 or not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    x86 = () if held else ("avx512_bf16", "amx_bf16")
    return next((name for name in (*x86, "arm_bf16", "bf16") if has.get(name)), None)


def machine_name() -> str:
    """The GPU's or the processor's model, as its maker calls it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def cannot_compile() -> str | None:
    """Why Inductor could not compile here, or None."""
    if torch.cuda.is_available():
        return None
    named = os.environ.get("CXX")
    if any(shutil.which(name) for name in ((named,) if named else ("g++", "clang++"))):
        return None
    return "this machine has no C++ compiler"


def prepare_compiler(cache: Path) -> dict[str, Any]:
    """Let Inductor keep its code below `cache` from run to run; what is returned are its options.

    Its deterministic mode: it chooses kernels by rule and not by timing them, so that a process that must compile again
    after a kill gets the same code, and with it the same bits.
    """
    code = cache / "inductor"
    sweep_code(code)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(code)
    # A CUDA toolkit on a machine without a GPU is nothing that a person must act on.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    return {"deterministic": True}


def sweep_code(folder: Path) -> None:
    """Remove libraries that a kill left half-written.

    Inductor writes all else aside and renames it, but lets the linker write in place, and would load the stump for ever
    after ("file too short"). A stump younger than a link takes may be another training's at work: it is waited for.
    """
    for library in folder.rglob("*.so"):
        while _is_stump(library):
            if time.time() - library.stat().st_mtime > _LINK_S:
                library.unlink()
                break
            time.sleep(0.5)


def _is_stump(library: Path) -> bool:
    """Whether an ELF file ends before its table of sections does, which linkers put last."""
    with library.open("rb") as file:
        header = file.read(64)
    if len(header) < 64:
        return True
    if header[:4] != b"\x7fELF":
        return not any(header)  # space that was never filled; else another system's format
    offset, size, count = struct.unpack_from("<Q", header, 40)[0], *struct.unpack_from("<HH", header, 58)
    return library.stat().st_size < offset + size * count


def keep_large_blocks() -> None:
    """Let glibc recycle blocks of many megabytes instead of returning them to the kernel after every use.

    By default each step maps and faults in its activations again: 8,500 tokens/s become 11,700 by this call alone (4
    layers, width 256, batch 16 x 256, 2 cores). The price is that the peak stays resident. Elsewhere than on glibc it
    does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
