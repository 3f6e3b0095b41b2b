"""Compiles kernels with numba, and forgets every compiled one when the source of any has changed.

numba keeps what it compiled beside the file that it stands in and looks at that file's time only; but a kernel holds
the code of those that it calls, which may stand in another file. A changed definition of a word would live on in
kernels that were compiled before. So all of them are kept in one folder, named by what all files with kernels hold.
"""

import hashlib
import os
from pathlib import Path

import numba
from numba import njit

__all__ = ["njit"]


def _cache_folder() -> Path:
    package = Path(__file__).resolve().parent
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        if b"from tasks.compiled import" in source:
            digest.update(source)
    name = f"kernels-{digest.hexdigest()}"
    beside = package / "__pycache__"
    if os.access(beside if beside.exists() else package, os.W_OK):
        return beside / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightschool" / name


numba.config.CACHE_DIR = str(_cache_folder())  # type: ignore[attr-defined]
