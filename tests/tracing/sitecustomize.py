"""Writes down what of the project runs in a stage, in each thread of this process, and which files of it are read.

Python imports a module of this name by itself when its folder is on PYTHONPATH, so that child processes are observed
too. TRACED_INTO is the file that gets a line (node, file, first line of the code, its name) as soon as some code runs
for the first time, since children are killed; TRACED_ROOT the project; TRACED_NODE the node that a child works for.

Python asks the observer at each call of any function, so the first thing it looks at is whether the code is known: a
number in a set. It never looks at lines.
"""

import functools
import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

ROOT = os.environ.get("TRACED_ROOT", "")
PACKAGES = tuple(f"{ROOT}/{name}/" for name in ("flows", "tasks", "models"))
CODE = (".py", ".pyc", ".nbi", ".nbc")
node = os.environ.get("TRACED_NODE", "")
known: set[int] = set()
"""Identities of code that is not the project's, or has been written down for this node."""
elsewhere: set[int] = set()
held: list[CodeType] = []
"""Keeps known code in memory, so that no identity is given twice."""


def begin(name: str) -> None:
    """From now on this process, and children that it starts, work for another node; "" for none."""
    global node
    node = os.environ["TRACED_NODE"] = name
    known.intersection_update(elsewhere)
    forget_answers()


def forget_answers() -> None:
    """Of the stages' cached functions: one that answers from an earlier node's cache would not be seen to run."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("tasks.", "models.")) and not name.startswith("tasks.core."):
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


def observe(frame: FrameType, event: str, argument: Any) -> None:
    """A tracer that hears of calls only."""
    if id(frame.f_code) not in known:
        look_at(frame, frame.f_code)


def look_at(frame: FrameType, code: CodeType) -> None:
    if not code.co_filename.startswith(PACKAGES) or not code.co_filename.endswith(".py"):
        elsewhere.add(id(code))
    elif during_import(frame):
        return
    elif node:
        write_down(node, code.co_filename, code.co_firstlineno, code.co_name)
    held.append(code)
    known.add(id(code))


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: data files of the project, as line 0."""
    if event == "open" and node and str(arguments[0]).startswith(PACKAGES) and not str(arguments[0]).endswith(CODE):
        write_down(node, str(arguments[0]), 0, "")


def write_down(*facts: str | int) -> None:
    with open(os.environ["TRACED_INTO"], "a") as file:
        file.write("\t".join(map(str, facts)) + "\n")


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
