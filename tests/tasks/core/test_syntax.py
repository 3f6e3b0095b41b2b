"""The form of code: what it leaves out, and that no release of Python changes it."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.core.symbols import read_module
from tasks.core.syntax import form, parse
from tests.conftest import PROJECT

SAMPLE = '''"""All kinds of syntax."""
from __future__ import annotations

import asyncio as aio
from collections import OrderedDict as Ordered

NUMBERS = (1, -2.5, 3j, 0xFF, 10**30, True, None, ...)
TEXTS = ("ä€😀\\u0301", b"\\x00\\xff", u"kind", f"{NUMBERS!r:>{10}} and {{braces}}" "joined" f"{TEXTS=}")
TABLE: dict[str, int] = {"a": 1, **{}}
TABLE["b"] = 2
TABLE |= {}


class Base(Ordered, metaclass=type):
    """Documented."""

    field: int = 0
    """Documented."""

    @property
    def inner(self) -> list[int]:
        return [x for y in self for x in y if x if y]


async def work(a, /, b=1, *c, d, e=lambda *args, k=2: (yield), **f) -> None:
    async with aio.timeout(1) as t, t:
        async for _ in t:
            await t
    try:
        raise ValueError from None
    except* (KeyError, OSError) as error:
        del error
    finally:
        assert a, "said"
    match b:
        case {"k": [1, *rest], **others} | Base(field=0) as whole if (n := rest):
            return
        case _:
            global NUMBERS
    while a < b <= d != e is not f:
        a @= b; break
    else:
        print(a[1:2, ::3], *c, **f, sep="")
    with (a, b): pass
'''
DIGESTS = {
    "NUMBERS": "4b2ab4b80fd8c55d",
    "TEXTS": "62ab77aa91e769d9",
    "TABLE": "f2930d48f0359673",
    "Base": "f2ed198d0a475f15",
    "work": "8541eb9a3adb1510",
}


def digests(text: str = SAMPLE) -> dict[str, str]:
    return {name: symbol.content.digest for name, symbol in read_module(text.encode(), "sample", False).symbols.items()}


def test_the_same_source_has_the_same_digests_on_every_release_of_python() -> None:
    assert digests() == DIGESTS


@pytest.mark.parametrize("release", ["3.12", "3.13"])
def test_other_interpreters_agree(release: str) -> None:
    """Where they are installed; what they need is the standard library and two modules."""
    folders = (Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions").glob(f"{release}.*/bin/python")
    interpreter = next(iter(sorted(folders)), None)
    if interpreter is None:
        pytest.skip(f"there is no Python {release} here")
    code = (
        "import json, sys; from tasks.core.symbols import read_module; text = sys.stdin.buffer.read(); "
        "print(json.dumps({n: s.content.digest for n, s in read_module(text, 'sample', False).symbols.items()}))"
    )
    done = subprocess.run(
        [str(interpreter), "-c", code], input=SAMPLE.encode(), capture_output=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == json_of(DIGESTS)


def json_of(value: dict[str, str]) -> str:
    return json.dumps(value)


def test_the_form_of_the_project_survives_the_formatter_with_another_line_length(tmp_path: Path) -> None:
    files = [path for name in ("tasks", "models") for path in sorted((PROJECT / name).rglob("*.py"))]
    copies = [tmp_path / str(number) for number in range(len(files))]
    for path, copy in zip(files, copies, strict=True):
        copy.with_suffix(".py").write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "70", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    changed = 0
    for path, copy in zip(files, copies, strict=True):
        formatted = copy.with_suffix(".py").read_bytes()
        changed += formatted != path.read_bytes()
        assert form(parse(formatted, "formatted")) == form(parse(path.read_bytes(), "original")), path
    assert changed > 50


def test_threads_may_parse_at_the_same_time() -> None:
    source = (PROJECT / "tasks" / "core" / "syntax.py").read_bytes()
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(form(parse(source, "syntax"))))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


def test_a_parser_that_got_in_the_way_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import ast

    real, calls = ast.parse, []

    def disturbed(source: bytes, filename: str) -> ast.Module:
        calls.append(filename)
        if len(calls) < 3:
            raise SystemError("AST constructor recursion depth mismatch (before=63, after=64)")
        return real(source, filename=filename)

    monkeypatch.setattr("tasks.core.syntax.ast.parse", disturbed)
    assert len(parse(b"A = 1", "a").body) == 1
    assert len(calls) == 3
