"""Writes down what of the project runs in a stage, in each thread of this process, and which files of it are read.

Python imports a module of this name by itself when its folder is on PYTHONPATH, so that child processes are observed
too. TRACED_INTO is the file that gets a line (stage and node, file, first line of the function) as soon as one runs for
the first time, since children are killed; TRACED_ROOT the project; TRACED_NODE the stage, while one runs.
"""

import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

ROOT = os.environ.get("TRACED_ROOT", "")
PACKAGES = tuple(f"{ROOT}/{name}/" for name in ("flows", "tasks", "models"))
CODE = (".py", ".pyc", ".nbi", ".nbc")
seen: set[tuple[str, CodeType]] = set()


def observe(frame: FrameType, event: str, argument: Any) -> None:
    """A tracer that hears of calls only."""
    code = frame.f_code
    if not code.co_filename.startswith(PACKAGES) or not code.co_filename.endswith(".py"):
        return
    node = os.environ.get("TRACED_NODE", "")
    if not node or (node, code) in seen or during_import(frame):
        return
    seen.add((node, code))
    write_down(node, code.co_filename, code.co_firstlineno)


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: data files of the project, as line 0."""
    node = os.environ.get("TRACED_NODE", "")
    if node and event == "open" and str(arguments[0]).startswith(PACKAGES) and not str(arguments[0]).endswith(CODE):
        write_down(node, str(arguments[0]), 0)


def write_down(node: str, path: str, line: int) -> None:
    with open(os.environ["TRACED_INTO"], "a") as file:
        file.write(f"{node}\t{path}\t{line}\n")


def during_import(frame: FrameType) -> bool:
    """What a module's top level calls is run by whoever imports it first, not by the stage."""
    above: FrameType | None = frame
    while above is not None:
        if above.f_code.co_name == "<module>" and above.f_globals.get("__name__") != "__main__":
            return above.f_code.co_filename.startswith(PACKAGES)
        above = above.f_back
    return False


if ROOT:
    sys.addaudithook(hear)
    sys.settrace(observe)
    threading.settrace(observe)
