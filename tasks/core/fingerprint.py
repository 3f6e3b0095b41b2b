"""Fingerprints: what a stage's code is, so that a changed helper reruns it and a changed comment does not.

The code of a stage is its module and every project module that it imports, directly or not, wherever the import
stands. Each is reduced to its syntax tree without docstrings, comments and layout, and hashed. Resolution is by
path, nothing is imported, so `plan` costs milliseconds. The price is coarseness: a change anywhere in a module
counts for each stage that imports it.

`tasks.core` is left out: it carries artifacts and never looks inside them, and a better log line there must not
retrain a model. What stages do take from it (the contract) changes with a stage's `version`.
"""

import ast
import hashlib
import json
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PROJECT = ("flows", "tasks", "models")
CARRIER = "tasks.core"


def canonical(value: Any) -> bytes:
    """One JSON text for equal values: sorted keys, no spaces, UTF-8; NaN and unknown types are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def code_fingerprint(module: str, root: Path, extra: tuple[str, ...] = ()) -> dict[str, str]:
    """Hash of each project module behind `module` and `extra` (modules that run in a child process).

    Args:
        module: dotted name of the stage's module.
        root: the folder in which its top-level package lies.
    """
    packages = {*PROJECT, module.partition(".")[0]}
    found: dict[str, str] = {}
    waiting = [module, *extra]
    while waiting:
        name = waiting.pop()
        if name in found or name == CARRIER or name.startswith(CARRIER + "."):
            continue
        path = _module_path(root, name)
        if path is None:
            continue
        digest, imported = _read_module(path, path.stat().st_mtime_ns, name)
        found[name] = digest
        waiting.extend(target for target in imported if target.partition(".")[0] in packages)
    return dict(sorted(found.items()))


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of the libraries whose behaviour a stage depends on."""
    return {name: metadata.version(name) for name in sorted(names)}


def _module_path(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _read_module(path: Path, _changed: int, name: str) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                origin = ".".join([*above, *([origin] if origin else [])])
            # `from tasks import ingest` names a module, `from tasks.ingest import ingest` a thing in one: try both.
            imported += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = _without_docstrings(node.body)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], tuple(imported)


def _without_docstrings(body: list[ast.stmt]) -> list[ast.stmt]:
    """Drop bare strings: docstrings, and the strings below fields that document them."""
    return [
        statement
        for statement in body
        if not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        )
    ]
