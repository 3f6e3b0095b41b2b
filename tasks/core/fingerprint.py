"""Fingerprints: what a stage's code is, so that a changed helper reruns it and a changed comment does not.

The code of a stage is the closure of symbols that its function can reach (tasks/core/closure.py), each with a hash
(tasks/core/symbols.py), the files that it reads beside them, and the releases of Python and of the libraries that the
closure takes anything from. Nothing is imported and nothing is listed by hand but what carries
(tasks/core/carriers.py). A night's 13 stages take half a second of processor time when files are read for the first
time, 40 ms afterwards.
"""

import hashlib
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from tasks.core.closure import Closure, Code
from tasks.core.symbols import ModuleSyntax, read_module

PROJECT = ("flows", "tasks", "models")
ROOT = Path(__file__).resolve().parents[__name__.count(".")]
"""The folder in which this project's packages lie."""
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "PyYAML"}
"""Where a library is installed under another name than it is imported by; others are looked up, which costs 0.3 s."""

Stamp = tuple[int, int]
_working = threading.Lock()
"""Held by whoever looks names up: closures are found by one thread at a time."""


@dataclass(frozen=True)
class Fingerprint:
    """The code and the libraries of a stage."""

    code: dict[str, str]
    """Hash of each symbol, by its dotted name, and of each file that is read."""
    libraries: dict[str, str]
    """Releases of what comes from elsewhere, and of Python."""


def fingerprint(
    entries: Sequence[str], root: Path, names: Collection[str] | None = None, files: Sequence[Path] = ()
) -> Fingerprint:
    """What these entries, each `module:symbol` or a module that is run, consist of.

    Args:
        root: the folder in which the first entry's top-level package lies.
        names: what a request names, and with it entries of tables; None: all entries count.
        files: files, or folders of files, that the code reads; only what they hold and their names below their own
            folder count.

    Raises:
        StageError: the code reaches what cannot be followed, or a file is not valid Python.
    """
    with _working:
        found = _project(root, entries[0].partition(".")[0].partition(":")[0]).closure(tuple(entries), names)
    code = found.symbols | {name: _content(path, _stamp(path)) for name, path in _below(files).items()}
    return Fingerprint(code, library_versions(found.libraries))


def library_versions(names: Collection[str]) -> dict[str, str]:
    """The installed release of each library, by its import name, and Python's own (major and minor)."""
    versions = {name: _release(name) for name in names}
    return dict(sorted({**versions, "python": f"{sys.version_info.major}.{sys.version_info.minor}"}.items()))


def users_of(module: str, root: Path) -> list[str]:
    """Every symbol (`module:symbol`) below the module's package whose code takes something from the module itself."""
    package = root / module.partition(".")[0]
    found = []
    for path in sorted(package.rglob("*.py")):
        if module.encode() in path.read_bytes():
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            syntax = _read(path, _stamp(path), name)
            bound = {name for name, targets in syntax.imports.items() if any(t.module == module for t in targets)}
            found += [
                f"{name}:{defined}"
                for defined, symbol in syntax.symbols.items()
                if any(chain[0] in bound for chain in symbol.content.uses)
            ]
    return found


@dataclass
class Project:
    """The source of a stage's project and of this one, read again where a file has changed."""

    roots: tuple[Path, ...]
    packages: frozenset[str]
    changed: Mapping[str, bytes] = field(default_factory=dict)
    """Source that stands in place of a module's file, or of none, by the module's name."""
    _files: dict[Path, Stamp] = field(default_factory=dict)
    _code: Code | None = None
    _closures: dict[tuple[str, ...], list[tuple[frozenset[str] | None, Closure]]] = field(default_factory=dict)

    def closure(self, entries: tuple[str, ...], names: Collection[str] | None) -> Closure:
        """The closure of the entries in the source as it stands now."""
        if self._code is None or any(_stamp(path) != stamp for path, stamp in self._files.items()):
            self._files, self._closures = {}, {}
            self._code = Code(self._module, self.packages)
        known = self._closures.setdefault(entries, [])
        for chosen, found in known:
            if chosen == (None if names is None else found.offered.intersection(names)):
                return found
        found = self._code.closure(entries, names)
        known.append((None if names is None else frozenset(found.offered.intersection(names)), found))
        return found

    def _module(self, name: str) -> ModuleSyntax | None:
        if name in self.changed:
            return read_module(self.changed[name], name, is_package=False)
        for root in self.roots:
            base = root.joinpath(*name.split("."))
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                if path.is_file():
                    self._files[path] = _stamp(path)
                    return _read(path, self._files[path], name)
        return None


@cache
def _project(root: Path, package: str) -> Project:
    return Project((root, *([ROOT] if root != ROOT else [])), frozenset((*PROJECT, package)))


@cache
def _read(path: Path, _changed: Stamp, name: str) -> ModuleSyntax:
    return read_module(path.read_bytes(), name, path.name == "__init__.py")


def _stamp(path: Path) -> Stamp:
    try:
        state = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return state.st_mtime_ns, state.st_size


def _below(files: Sequence[Path]) -> dict[str, Path]:
    """The files by their names below the folder that each path lies in."""
    found: dict[str, Path] = {}
    for given in files:
        for path in sorted(given.rglob("*")) if given.is_dir() else [given]:
            if path.is_file():
                found[path.relative_to(given.parent).as_posix()] = path
    return found


@cache
def _content(path: Path, _changed: Stamp) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@cache
def _release(name: str) -> str:
    try:
        return metadata.version(DISTRIBUTIONS.get(name, name))
    except metadata.PackageNotFoundError:
        holders = metadata.packages_distributions().get(name, ())
    return ", ".join(f"{holder} {metadata.version(holder)}" for holder in sorted(set(holders))) or "not installed"
