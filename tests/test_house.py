"""The house holds: flows stand on tasks, tasks on models, nothing imports upwards, and no files import each other."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import PROJECT

FLOORS = ("models", "tasks", "flows")
"""From the ground up."""


@cache
def files() -> dict[str, Path]:
    """Every file of the project by its module's name."""
    found = {}
    for floor in FLOORS:
        for path in (PROJECT / floor).rglob("*.py"):
            found[".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Modules of the project that a file names in an import, wherever in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files())
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in files() or node.module in files():
                    yield inner if inner in files() else node.module


@pytest.mark.parametrize("floor", FLOORS)
def test_nothing_imports_upwards(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :]
    upwards = {
        f"{name} imports {target}"
        for name, path in files().items()
        if name.partition(".")[0] == floor
        for target in imported(path)
        if target.partition(".")[0] in above
    }
    assert upwards == set()


def test_no_files_import_each_other() -> None:
    """Not even over others, in a function or for types alone."""
    graph = {name: set(imported(path)) - {name} for name, path in files().items()}
    while leaves := {name for name, targets in graph.items() if not targets}:
        graph = {name: targets - leaves for name, targets in graph.items() if name not in leaves}
    assert graph == {}, "each of these imports another of them, or stands on one that does"


def test_models_know_neither_prefect_nor_mlflow_nor_the_store() -> None:
    strangers = {"prefect", "mlflow"}
    for name, path in files().items():
        if name.startswith("models"):
            tree = ast.walk(ast.parse(path.read_bytes()))
            tops = {node.module.partition(".")[0] for node in tree if isinstance(node, ast.ImportFrom) and node.module}
            assert not tops & strangers, name


def test_the_tests_mirror_the_rooms() -> None:
    """A test of a file stands in the room of that file."""
    rooms = {path.parent.relative_to(PROJECT) for path in files().values()}
    tested = {path.parent.relative_to(PROJECT / "tests") for path in (PROJECT / "tests").rglob("test_*.py")}
    beside = {Path("."), Path("chaos"), Path("browser")}
    assert tested - rooms - beside == set()


def test_every_file_says_what_it_is_for() -> None:
    for name, path in files().items():
        assert ast.get_docstring(ast.parse(path.read_bytes())), name


def test_a_docstring_is_a_sentence_and_no_fragment() -> None:
    """It does not begin with "Of", which says whose something is before it says what."""
    fragments = [str(path) for path in files().values() if '"""Of ' in path.read_text()]
    assert fragments == []


def test_nothing_else_joins_the_top_level() -> None:
    """The names that the user asked for, dotfiles, a licence and what tools write."""
    wanted = {"flows", "tasks", "models", "tests", "deployments", "pyproject.toml", "README.md", "LICENSE", "uv.lock"}
    there = {path.name for path in PROJECT.iterdir() if not path.name.startswith(".")}
    assert there - {"dist", "build"} <= wanted
