"""The command line before anything runs: quick, and one sentence for each mistake."""

import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from flows.cli import app
from tests.tiny import Commands

VERBS = ("quickstart", "run", "plan", "rerun", "up", "down", "status", "deploy", "settings", "sync")


def test_help_names_every_verb() -> None:
    done = subprocess.run([sys.executable, "-m", "flows.cli", "--help"], capture_output=True, text=True, check=True)
    for verb in VERBS:
        assert f" {verb} " in done.stdout


def test_the_help_of_every_verb_has_an_example_that_can_be_typed() -> None:
    commands = {
        command.name or command.callback.__name__: command for command in app.registered_commands if command.callback
    }
    assert tuple(commands) == VERBS
    for verb, command in commands.items():
        (example,) = re.findall(r"Example: nightschool (.*)", inspect.cleandoc(command.callback.__doc__ or ""))
        typed, *arguments = shlex.split(example)
        assert typed == verb
        typer.main.get_command(app).commands[verb].make_context(verb, arguments)  # type: ignore[attr-defined]


def imported_by(module: str, heavy: tuple[str, ...]) -> list[str]:
    """Which of the heavy modules a fresh Python has loaded after it has imported this one."""
    code = f"import json, sys; import {module}; print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def test_help_is_quick_since_it_imports_nothing_heavy() -> None:
    assert imported_by("flows.cli", ("torch", "prefect", "mlflow", "polars", "pydantic", "yaml")) == []


def test_the_checks_import_neither_prefect_nor_torch() -> None:
    assert imported_by("flows.checks", ("torch", "prefect", "mlflow", "transformers", "datasets")) == []


def test_a_slip_of_the_pen_is_told_without_importing_a_stage() -> None:
    assert imported_by("flows.recipe_file", ("polars", "pyarrow", "pydantic", "numpy", "numba")) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("deduplicate.treshold", 0.8, "unknown key `deduplicate.treshold`; did you mean `threshold`?"),
        ("ingest.sources", [{"kind": "files", "name": "web", "paths": ["/nowhere/at/all"]}], "/nowhere/at/all"),
        ("ingest.sources", [{"kind": "python-docs", "packages": ["no_such_package"]}], "no_such_package"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_mistake_in_the_recipe_ends_in_one_sentence_and_exit_code_2(
    tiny: Commands, verb: str, path: str, value: object, sentence: str
) -> None:
    tiny.change(path, value)
    done = tiny(verb, str(tiny.recipe))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tiny.home / "artifacts").exists()
    assert not (tiny.home / "keys").exists()


def test_a_missing_recipe_is_exit_code_2(tiny: Commands, tmp_path: Path) -> None:
    done = tiny("run", str(tmp_path / "none.yaml"))
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "there is no recipe" in done.stderr


def test_status_down_and_rerun_of_nothing_say_what_to_do(tiny: Commands) -> None:
    assert "`nightschool up` starts them" in tiny("status").stdout
    assert "nothing was running" in tiny("down").stdout
    done = tiny("rerun")
    assert done.returncode == 2
    assert "`nightschool run RECIPE` starts one" in done.stderr


def test_deploying_without_a_server_says_how_to_start_one(tiny: Commands) -> None:
    done = tiny("deploy", str(tiny.recipe), "--cron", "0 2 * * *")
    assert done.returncode == 2
    assert "start it with `nightschool up`" in done.stderr


def test_a_home_that_cannot_be_written_is_a_sentence(tiny: Commands, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = Commands(tmp_path / "file" / "home", tiny.recipe)("run", str(tiny.recipe))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr and "NIGHTSCHOOL_HOME" in done.stderr
