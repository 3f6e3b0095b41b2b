"""Which files a glob leads to, on this machine.

Unlike `glob.glob`, the walk ends whatever links there are (below `**`, a folder is entered once, however many ways lead
there) and keeps out of the kernel's own folders, whose files may have no end and number millions.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from itertools import takewhile
from pathlib import Path

KERNEL_FOLDERS = ("/proc", "/sys", "/dev")
MEMORY_FOLDER = "/dev/shm"
"""Holds ordinary files, in memory."""


def in_kernel_folder(path: str | Path) -> bool:
    """Whether the path, links followed, leads to what the kernel only shows as files."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(folder) for folder in KERNEL_FOLDERS) and not real.is_relative_to(MEMORY_FOLDER)


def is_whole_machine(pattern: Path) -> bool:
    """Whether a folder or glob means all that is below the root, which takes minutes to find out."""
    root, parts = fixed_part(pattern)
    return root == Path(root.anchor) and (not parts or "**" in parts)


def fixed_part(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """A glob as the folder that it begins with, and what has to be matched below that."""
    fixed = tuple(takewhile(lambda part: not has_magic(part), pattern.parts))
    return Path(*fixed), pattern.parts[len(fixed) :]


def matches(root: Path, parts: Sequence[str], hidden: bool = False) -> list[Path]:
    """The files below a folder that match, in the order of their depth and names.

    Args:
        root: taken as it stands.
        parts: a pattern for each level; `**` is any number of folders, and as the last part all that is below.
        hidden: whether `*` and `**` also stand for names that begin with a dot.
    """
    found: dict[Path, None] = {}
    waiting = deque([(root, 0)])
    entered: set[tuple[str, int]] = set()
    while waiting:
        place, at = waiting.popleft()
        if at == len(parts):
            if place.is_file():
                found[place] = None
            continue
        part, is_last = parts[at], at + 1 == len(parts)
        if not has_magic(part):
            waiting.append((place / part, at + 1))
            continue
        if in_kernel_folder(place):
            continue
        if part == "**":
            real = os.path.realpath(place)
            if (real, at) in entered:
                continue
            entered.add((real, at))
            if not is_last:
                waiting.append((place, at + 1))
        for entry in _entries(place, hidden or part.startswith(".")):
            if part != "**":
                if fnmatchcase(entry.name, part):
                    waiting.append((place / entry.name, at + 1))
            elif _is_folder(entry):
                waiting.append((place / entry.name, at))
            elif is_last:
                waiting.append((place / entry.name, at + 1))
    return list(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead to themselves
        return False


def _entries(folder: Path, hidden: bool) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, by name; nothing where there is none, or where we may not look."""
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if hidden or not entry.name.startswith("."):
                    yield entry
    except OSError:
        return
