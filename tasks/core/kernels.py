"""Compiles kernels with numba, and forgets every compiled one when the code of any has changed.

numba keeps what it compiled beside the file that it stands in and looks at that file's time only; but a kernel holds
the code of those that it calls and the constants that it reads, which may stand in another file. A changed definition
of a word would live on in kernels that were compiled before. So all of them are kept in one folder, named by the
closure of all kernels: the same one that enters the keys of the stages.
"""

import os
from pathlib import Path

import numba
from numba import njit

from tasks.core.digest import digest
from tasks.core.fingerprint import ROOT, fingerprint, users_of

__all__ = ["njit"]


def _cache_folder() -> Path:
    package = Path(__file__).resolve().parent.parent
    found = fingerprint(users_of(__name__, ROOT), ROOT)
    name = f"kernels-{digest([found.code, found.libraries])[:16]}"
    beside = package / "__pycache__"
    if os.access(beside if beside.exists() else package, os.W_OK):
        return beside / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightschool" / name


numba.config.CACHE_DIR = str(_cache_folder())  # type: ignore[attr-defined]
