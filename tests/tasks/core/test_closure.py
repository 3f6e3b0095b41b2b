"""Keys hold what runs, and nothing else moves them: observed, and computed a second time in another way."""

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_type_hints

import pytest

from tasks.core.carriers import CARRIERS
from tasks.core.closure import carries
from tasks.core.fingerprint import PROJECT as PACKAGES
from tasks.core.fingerprint import Project
from tasks.core.stage import Stage, known_stages
from tasks.core.symbols import EFFECTS, MAIN, read_module
from tests.conftest import PROJECT
from tests.tracing.reachable import Reachable

Observed = dict[str, tuple[str, frozenset[str], set[str]]]
"""By node: its stage, the symbols that its key names, and those that ran."""


def observe(folder: Path, extent: str) -> Observed:
    """Tiny nights, observed in all threads and child processes; kernels run as plain Python."""
    environment = {
        **os.environ,
        "TRACED_ROOT": str(PROJECT),
        "TRACED_INTO": str(folder / "ran.txt"),
        "PYTHONPATH": os.pathsep.join((str(PROJECT / "tests" / "tracing"), str(PROJECT))),
        "PYTHONWARNINGS": "ignore",
        "NUMBA_DISABLE_JIT": "1",
    }
    command = [sys.executable, "-m", "tests.tracing.nights", str(folder / "home"), extent]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return read_observed(json.loads(done.stdout), (folder / "ran.txt").read_text())


def read_observed(keys: dict[str, tuple[str, list[str]]], ran: str) -> Observed:
    found: Observed = {node: (stage, frozenset(code), set()) for node, (stage, code) in keys.items()}
    for line in ran.splitlines():
        node, file, first, name = line.split("\t")
        found[node][2].add(symbol_at(Path(file), int(first), name) if file.endswith(".py") else file)
    return found


def symbol_at(file: Path, line: int, code: str = "") -> str:
    """The symbol of the top-level statement at a line, such as `tasks.corpus.filter.filter`; of the code of a whole
    file, which is observed only where a process runs it, `__main__`."""
    module = ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
    names = [name for first, last, name in statements_of(file) if first <= line <= last]
    return f"{module}.{MAIN if code == '<module>' else names[0] if names else EFFECTS}"


@cache
def statements_of(file: Path) -> list[tuple[int, int, str]]:
    """(first line, last line, name) of what a file's top level defines."""
    return list(_statements(ast.parse(file.read_bytes()).body))


def _statements(body: list[ast.stmt]) -> Iterator[tuple[int, int, str]]:
    for statement in body:
        if isinstance(statement, ast.If | ast.Try):
            handlers = [inner for handler in getattr(statement, "handlers", ()) for inner in handler.body]
            yield from _statements([*statement.body, *handlers, *statement.orelse])
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            first = min([statement.lineno, *(decorator.lineno for decorator in statement.decorator_list)])
            yield first, statement.end_lineno or first, statement.name
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            name = target.id if isinstance(target, ast.Name) else ast.unparse(target)
            yield statement.lineno, statement.end_lineno or statement.lineno, name


def test_whatever_ran_in_a_data_stage_is_in_its_key_or_carries(tmp_path: Path) -> None:
    observed = observe(tmp_path, "sample")
    assert not_covered(observed) == {}
    trained = {"pretrain", "evaluate", "export", "examples", "finetune", "baseline", "report"}
    assert {stage for stage, _, _ in observed.values()} == set(stages()) - trained
    assert "tasks.intake.webpage.main_text" in observed["causal/ingest"][2]  # child processes were observed as well
    assert "tasks.quality.scan._scan" in observed["causal/filter"][2]  # and so were kernels
    assert observed["second/deduplicate"][2] > observed["causal/deduplicate"][2]  # it looks into the first one's index


@pytest.mark.slow  # some two and a half minutes of one core
@pytest.mark.timeout(1800)
def test_whatever_ran_in_a_stage_is_in_its_key_or_carries(tmp_path: Path) -> None:
    observed = observe(tmp_path, "whole")
    assert not_covered(observed) == {}
    assert {stage for stage, _, _ in observed.values()} == set(stages())
    assert "models.learn.checkpoint.open_trunk" in observed["second/pretrain"][2]  # goes on from the first night's


def not_covered(observed: Observed) -> dict[str, list[str]]:
    """By node, what ran and neither is in its key nor carries."""
    missing = {node: sorted(uncovered(ran, code)) for node, (_, code, ran) in observed.items()}
    return {node: names for node, names in missing.items() if names}


CALLED_BY_CARRIERS = {"tasks.core.digest.canonical", "tasks.core.digest.digest"}
"""The store names what it keeps by them."""


def uncovered(ran: set[str], code: frozenset[str]) -> Iterator[str]:
    for symbol in ran - code - CALLED_BY_CARRIERS:
        module, _, name = symbol.rpartition(".")
        if "/" in symbol:  # a file that was read
            if not any(symbol.endswith(f"/{name}") for name in code):
                yield symbol
        elif not carries(module, name):
            yield symbol


def stages() -> dict[str, Stage]:
    """Those of the project; other tests define some of their own."""
    for path in sorted((PROJECT / "tasks").rglob("*.py")):
        if "\n@stage(" in path.read_text():
            importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    return {name: stage for name, stage in known_stages.items() if stage.function.__module__.startswith("tasks.")}


def definitions() -> dict[Path, list[str]]:
    """The functions and classes of the project by file, as `module.name`."""
    files = [path for name in ("tasks", "models") for path in sorted((PROJECT / name).rglob("*.py"))]
    return {
        path: [
            symbol_at(path, statement.lineno)
            for statement in ast.parse(path.read_bytes()).body
            if isinstance(statement, ast.FunctionDef | ast.ClassDef)
        ]
        for path in files
    }


def test_the_stages_that_a_function_moves_are_those_that_live_objects_say_reach_it() -> None:
    every = {name for names in definitions().values() for name in names}
    for stage in stages().values():
        reachable = Reachable(CARRIERS)
        for value in (stage.function, *get_type_hints(stage.function, include_extras=True).values()):
            reachable.reach(value)
        for entry in stage.runs:
            module, _, name = entry.partition(":")
            reachable.reach(getattr(importlib.import_module(module), name))
        assert every.intersection(stage.fingerprint().code) == every & reachable.found, stage.name


def test_a_change_in_any_function_changes_the_symbol_that_it_stands_in_and_no_other() -> None:
    for path, names in definitions().items():
        text, module = path.read_text(), names[0].rpartition(".")[0] if names else ""
        before = digests_of(text, module)
        for function in [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]:
            first = function.body[0]
            lines = text.splitlines(keepends=True)
            if first.lineno == function.lineno:
                continue  # `def f() -> None: ...`
            lines.insert(first.lineno - 1, " " * first.col_offset + "changed = 1\n")
            after = digests_of("".join(lines), module)
            moved = {name for name in before if before[name] != after[name]}
            assert {f"{module}.{name}" for name in moved} == {symbol_at(path, function.lineno)}


def digests_of(text: str, module: str) -> dict[str, str]:
    return {name: symbol.content.digest for name, symbol in read_module(text.encode(), module, False).symbols.items()}


NAMES = frozenset(
    ("next_token", "adamw", "transformer", "bpe", "classification", ".jsonl", "gopher_quality", "gopher_repetition")
)
"""The names that a night of text gives to tables."""


def moved_by(**edits: tuple[str, str] | str) -> set[str]:
    """The stages of a night of text whose code is another after edits of modules (old, new), or with new modules."""
    changed = {}
    for name, edit in edits.items():
        module = name.replace("__", ".")
        if isinstance(edit, str):
            changed[module] = edit.encode()
            continue
        text = PROJECT.joinpath(*module.split(".")).with_suffix(".py").read_text()
        assert edit[0] in text
        changed[module] = text.replace(edit[0], edit[1], 1).encode()
    before, after = (Project((PROJECT,), frozenset(PACKAGES), given) for given in ({}, changed))
    moved = set()
    for stage in stages().values():
        entries = (f"{stage.function.__module__}:{stage.name}", *stage.runs)
        if before.closure(entries, NAMES).symbols != after.closure(entries, NAMES).symbols:
            moved.add(stage.name)
    return moved


def test_what_carries_or_is_only_said_moves_no_key() -> None:
    assert moved_by(tasks__training__supervise=("killing it.", "it is killed.")) == set()
    assert moved_by(models__machine__out_of_memory=("lower batch (now", "take a smaller batch (now")) == set()
    assert moved_by(models__learn__training=("import math\n", "import math  # a comment\n")) == set()
    assert moved_by(models__learn__optimizers=('"""How the weights move', '"""In which way the weights move')) == set()


def test_a_changed_constant_or_page_moves_what_shows_it_and_nothing_else() -> None:
    assert moved_by(tasks__judging__baseline=("C=10,", "C=11,")) == {"baseline"}
    assert moved_by(tasks__lineage__graph=("default=0)", "default=1)")) == {"report"}
    assert (
        moved_by(models__learn__optimizers=("_MOMENTUM = 0.95", "_MOMENTUM = 0.9")) == set()
    )  # Muon's, and this is AdamW
    assert moved_by(models__text__foreign=("rtol=1e-3", "rtol=1e-2")) == set()  # another family's
    assert moved_by(models__learn__optimizers=("eps=1e-8", "eps=1e-7")) == {"pretrain", "finetune"}
    assert moved_by(tasks__quality__rules=("too few words", "few words")) == {"filter"}
    assert moved_by(tasks__quality__rules=("unpunctuated lines", "bare lines")) == set()  # of a set that is off
    assert moved_by(tasks__quality__language=("slice(0, LOOKED_AT)", "head(LOOKED_AT)")) == set()
    assert moved_by(models__machine__flops=('"H100 PCIe", 756.0', '"H100 PCIe", 755.0')) == set()
    assert moved_by(models__machine__flops=("6 * weights", "7 * weights")) == {"pretrain", "finetune"}  # may compile


def test_a_family_an_objective_an_optimizer_and_a_format_that_join_move_no_key() -> None:
    dummy = "def load(folder, config): pass\n"
    joined = '"foreign": load_foreign, "resnet": "models.resnet:load"}'
    assert moved_by(models__text__model_folder=('"foreign": load_foreign}', joined), models__resnet=dummy) == set()
    assert (
        moved_by(
            models__objectives__losses=(
                '    "next_token": next',
                '    "pixels": "models.resnet:load",\n    "next_token": next',
            ),
            models__resnet=dummy,
        )
        == set()
    )
    assert moved_by(models__spec=('{"adamw": ', '{"lion": "models.lion:lion", "adamw": '), models__lion=dummy) == set()
    assert (
        moved_by(
            tasks__intake__formats=(
                '    ".csv": read_csv,',
                '    ".csv": read_csv,\n    ".xml": "tasks.intake.xml:read",',
            ),
            tasks__intake__xml=dummy,
        )
        == set()
    )
