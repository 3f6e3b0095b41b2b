"""Fingerprints: what counts as a change of a stage's code, on a small project of a stranger's."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.digest import canonical
from tasks.core.errors import StageError
from tasks.core.fingerprint import fingerprint

STAGE = '''"""The stage."""
import json
from mine.helper import double

def work(x):
    """Doc."""
    return double(x)  # a comment
'''
HELPER = """def double(x):
    from mine import deep
    return 2 * x + deep.ZERO

def unused():
    return double(3)
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes modules of the package `mine`, by name."""

    def write_modules(**modules: str) -> Path:
        (tmp_path / "mine").mkdir(exist_ok=True)
        for name, text in {"__init__": "", **modules}.items():
            (tmp_path / "mine" / f"{name}.py").write_text(textwrap.dedent(text))
        return tmp_path

    return write_modules


@pytest.fixture
def project(write: Write) -> Path:
    return write(stage=STAGE, helper=HELPER, deep="ZERO = 0\nONE = 1\n", other="A = 1\n")


def code(
    project: Path, names: set[str] | None = None, entries: tuple[str, ...] = ("mine.stage:work",)
) -> dict[str, str]:
    return fingerprint(entries, project, names).code


def replace(project: Path, module: str, old: str, new: str) -> None:
    file = project / "mine" / f"{module}.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_it_holds_the_symbols_that_are_reached_and_no_others(project: Path) -> None:
    assert list(code(project)) == ["mine.deep.ZERO", "mine.helper.double", "mine.stage.work"]


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("stage", "# a comment", "# another comment"),
        ("stage", '"""Doc."""', '"""Documentation."""'),
        ("stage", '"""The stage."""\n', '"""A stage."""\n\n\n'),
        ("helper", "2 * x + deep.ZERO", "(2 * x\n        + deep.ZERO)"),
        ("helper", "return double(3)", "return double(4)"),
        ("helper", "def unused", "def added():\n    pass\n\ndef unused"),
        ("deep", "ONE = 1", "ONE = 2"),
        ("other", "A = 1", "A = 2"),
    ],
)
def test_comments_docstrings_layout_and_what_is_not_reached_change_nothing(
    project: Path, module: str, old: str, new: str
) -> None:
    before = code(project)
    replace(project, module, old, new)
    assert code(project) == before


@pytest.mark.parametrize(
    ("module", "old", "new", "symbol"),
    [
        ("stage", "double(x)", "double(x) + 1", "stage.work"),
        ("helper", "2 * x", "3 * x", "helper.double"),
        ("deep", "ZERO = 0", "ZERO = 1", "deep.ZERO"),
        ("deep", "ZERO = 0", "ZERO = 0\nZERO += 1", "deep.ZERO"),
    ],
)
def test_changed_code_is_named_by_its_symbol(project: Path, module: str, old: str, new: str, symbol: str) -> None:
    before = code(project)
    replace(project, module, old, new)
    after = code(project)
    assert {name for name in before if before[name] != after[name]} == {f"mine.{symbol}"}


REACHED = {
    "a module's attribute": ("import mine.a\ndef work(): return mine.a.f()", "def f(): pass", ["a.f"]),
    "under another name": ("import mine.a as b\ndef work(): return b.f()", "def f(): pass", ["a.f"]),
    "a relative import": ("from . import a\ndef work(): return a.f()", "def f(): pass", ["a.f"]),
    "an import in a function": ("def work():\n    from .a import f as g\n    g()", "def f(): pass", ["a.f"]),
    "a decorator": ("from mine.a import f\n@f\ndef work(): pass", "def f(x): return x", ["a.f"]),
    "a default": ("from mine.a import N\ndef work(n=N): pass", "N = 1", ["a.N"]),
    "a class with bases": (
        "from mine.a import C\ndef work(): C()",
        "class B:\n    def m(self): return g()\nclass C(B): pass\ndef g(): pass",
        ["a.B", "a.C", "a.g"],
    ),
    "fields of a class": (
        "from mine.a import C\ndef work(): C()",
        "class D: pass\nclass C:\n    d: 'list[D]'",
        ["a.C", "a.D"],
    ),
    "a stage's settings": ("from mine.a import C\ndef work(settings: C): settings.m()", "class C: pass", ["a.C"]),
    "an inner function": ("from mine.a import f\ndef work():\n    def g(): return f()", "def f(): pass", ["a.f"]),
    "a lambda": ("from mine.a import f\nwork = lambda: [f(x) for x in ()]", "def f(x): pass", ["a.f"]),
    "an attempt": (
        "try:\n    from mine.a import f\nexcept ImportError:\n    f = None\ndef work(): f()",
        "def f(): pass",
        ["a.f", "stage.f"],
    ),
    "a condition": (
        "import sys\nfrom mine.a import N\nif sys.platform == N:\n    def f(): pass\nelse:\n    f = None\n"
        "def work(): f()",
        "N = 'linux'",
        ["a.N", "stage.f"],
    ),
    "a dict of functions": (
        "from mine.a import f\nTABLE = {'f': f}\nTABLE['g'] = len\ndef work(n): TABLE[n]()",
        "def f(): pass",
        ["a.f", "stage.TABLE"],
    ),
    "a module as a value": (
        "from mine import a\ndef work(n): getattr(a, n)()",
        "def f(): pass\nN = 1",
        ["a.N", "a.f"],
    ),
    "a module by its name": (
        "import importlib\ndef work(): importlib.import_module('mine.a').f()",
        "def f(): pass",
        ["a.f"],
    ),
    "a module that makes its attributes": (
        "from mine import a\ndef work(): a.anything()",
        "def __getattr__(name): return N\nN = 1",
        ["a.N", "a.__getattr__"],
    ),
    "a process of its own file": (
        "from mine.a import ask\ndef work(): ask()",
        "def ask(): return __file__\ndef answer(): pass\nif __name__ == '__main__':\n    answer()",
        ["a.__main__", "a.answer", "a.ask"],
    ),
    "statements that act": (
        "from mine.a import f\ndef work(): f()",
        "import logging\nlogging.captureWarnings(True)\nfor x in ():\n    print(N)\nN = 1\ndef f(): pass\nM = print()",
        ["a.<effects>", "a.N", "a.f"],
    ),
    "acts of a module that is only imported": (
        "import mine.a\ndef work(): pass",
        "import os\nos.environ['A'] = 'b'\ndef f(): pass",
        ["a.<effects>"],
    ),
    "what registers itself": (
        "from mine.a import TABLE\ndef work(n): TABLE[n]()",
        "TABLE = {}\ndef put(f): TABLE[f.__name__] = f\n@put\ndef g(): pass\ndef h(): pass",
        ["a.TABLE", "a.g", "a.put"],
    ),
    "subclasses that a base hears of": (
        "from mine.a import Base\ndef work(n): Base.known[n]()",
        "class Base:\n    known = {}\n    def __init_subclass__(cls): cls.known[cls.__name__] = cls\n"
        "class One(Base): pass\nclass Two(One): pass\nclass Other: pass",
        ["a.Base", "a.One", "a.Two"],
    ),
    "what a library may call": (
        "import mine.a\ndef work(): pass",
        "import atexit\nimport functools\nfrom numba.extending import overload\n@atexit.register\ndef f(): pass\n"
        "@overload(len)\ndef g(x): pass\n@functools.cache\ndef h(): pass",
        ["a.f", "a.g"],
    ),
    "an import in a class": (
        "class C:\n    from mine.a import f\ndef work(): C().f()",
        "def f(self): pass",
        ["a.f", "stage.C"],
    ),
    "an attempt in a function": (
        "def work():\n    try:\n        from mine.a import f\n    except ImportError:\n"
        "        from mine.a import g as f\n    f()",
        "def f(): pass\ndef g(): pass",
        ["a.f", "a.g"],
    ),
    "an import that binds a name of the module": (
        "def start():\n    global f\n    from mine.a import f\ndef work():\n    start()\n    f()",
        "def f(): pass",
        ["a.f", "stage.start"],
    ),
    "a loaded module by its name": (
        "import sys\nimport mine.a\ndef work(): return 'x' in sys.modules or sys.modules['mine.a'].f()",
        "def f(): pass",
        ["a.f"],
    ),
    "a symbol by its dotted name": (
        "from pydantic import ImportString as S, TypeAdapter\ndef work(): TypeAdapter(S).validate_python('mine.a.f')",
        "def f(): pass\ndef g(): pass",
        ["a.f"],
    ),
    "a process of a file beside": (
        "import subprocess\nfrom pathlib import Path\ndef work(): subprocess.run([Path(__file__).with_name('a.py')])",
        "def f(): pass\nif __name__ == '__main__':\n    f()",
        ["a.__main__", "a.f"],
    ),
    "a list of another module that grows": (
        "import mine.a\nfrom mine.helper import LIST\ndef work(): LIST[0]()",
        "from mine.helper import LIST\ndef f(): pass\nLIST += [f]",
        ["a.<effects>", "a.f", "helper.LIST"],
    ),
    "a function that is called get": (
        "def work():\n    from mine.a import get\n    return get('x'), values('y')\ndef values(x): pass",
        "def get(x): pass",
        ["a.get", "stage.values"],
    ),
    "only for whoever checks types": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mine.a import f\ndef work(x: 'f'): pass",
        "def f(): pass",
        [],
    ),
    "hidden by a parameter": ("from mine.a import f\ndef work(f): f()", "def f(): pass", []),
    "hidden by a variable": ("from mine.a import f\ndef work():\n    for f in (): f()", "def f(): pass", []),
    "an annotation of a plain function": (
        "from mine.a import f\ndef work(): return g(1)\ndef g(x: f): return x",
        "def f(): pass",
        ["stage.g"],
    ),
}


@pytest.mark.parametrize("case", REACHED)
def test_what_is_reached_by(write: Write, case: str) -> None:
    stage, other, expected = REACHED[case]
    project = write(stage=stage, a=other, helper="LIST = []")
    assert [name.removeprefix("mine.") for name in code(project)] == sorted([*expected, "stage.work"])


def test_a_package_may_import_a_part_of_itself(write: Write) -> None:
    project = write(__init__="from mine import a", stage="import mine\ndef work(): mine.a.f()", a="def f(): pass")
    assert list(code(project)) == ["mine.a.f", "mine.stage.work"]


def test_a_reexport_leads_to_where_the_symbol_is_defined(write: Write) -> None:
    project = write(stage="from mine.a import f\ndef work(): f()", a="from mine.b import g as f", b="def g(): pass")
    assert list(code(project)) == ["mine.b.g", "mine.stage.work"]


TABLE = """
from models.named import ByName, load
from mine.kinds import one

KINDS: ByName[object] = {"one": one, "two": "mine.kinds:two"}

def work(name):
    return load(KINDS[name])
"""


def test_of_a_table_a_request_takes_the_entries_that_it_names(write: Write) -> None:
    project = write(stage=TABLE, kinds="def one(): pass\ndef two(): pass\n")
    own = {"mine.stage.KINDS", "mine.stage.work"}
    assert set(code(project, {"one"})) == own | {"mine.stage.KINDS[one]", "mine.kinds.one"}
    assert set(code(project, {"two"})) == own | {"mine.stage.KINDS[two]", "mine.kinds.two"}
    assert set(code(project, set())) == own
    assert set(code(project)) == set(code(project, {"one", "two"}))


def test_an_entry_that_joins_a_table_changes_nothing_for_the_others(write: Write) -> None:
    project = write(stage=TABLE, kinds="def one(): pass\ndef two(): pass\n")
    before = code(project, {"one"})
    write(stage=TABLE.replace('two"}', 'two", "three": "mine.dummy:three"}'), dummy="def three(): pass\n")
    assert code(project, {"one"}) == before
    assert "mine.dummy.three" in code(project, {"three"})


@pytest.mark.parametrize(
    ("taken", "counted"),
    [
        ('KINDS["two"]', {"two"}),
        ('KINDS.get("two")', {"two"}),
        ("KINDS.get(name)", set()),
        ("[*KINDS.values()]", {"one", "two"}),
        ("dict(KINDS.items())", {"one", "two"}),
    ],
)
def test_entries_that_are_taken_whatever_the_request_names_count_always(
    write: Write, taken: str, counted: set[str]
) -> None:
    kinds = "def one(): pass\ndef two(): pass\n"
    project = write(stage=TABLE.replace("KINDS[name]", taken), kinds=kinds)
    assert {name for name in code(project, set()) if "kinds" in name} == {f"mine.kinds.{name}" for name in counted}
    inside = "def work(name):\n    from mine.table import KINDS\n    return " + taken
    project = write(stage=inside, table=TABLE, kinds=kinds)
    assert {name for name in code(project, set()) if "kinds" in name} == {f"mine.kinds.{name}" for name in counted}


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("def work(x): return eval(x)", "`eval` in line 1"),
        ("def work(x): exec(x)", "`exec` in line 1"),
        (
            "import importlib\ndef work(x): importlib.import_module(f'mine.{x}')",
            "`import_module` of a computed name in line 2",
        ),
        (
            "from importlib import import_module\ndef work(x): return [*map(import_module, x)]",
            "`import_module` of a computed name in line 2",
        ),
        (
            "from importlib import import_module\ndef work(): import_module('.a', 'mine')",
            "`import_module` of a computed name in line 2",
        ),
        (
            "from importlib import import_module as take\ndef work(x): take(x)",
            "mine.stage, line 1: `import_module` under another name",
        ),
        (
            "def work(x):\n    from importlib import import_module as take\n    take(x)",
            "`import_module` under another name in line 2",
        ),
        ("import builtins\ndef work(x): return builtins.eval(x)", "`builtins.eval` in line 2"),
        ("import runpy\ndef work(x): runpy.run_path(x)", "`runpy.run_path` in line 2"),
        (
            "from models.named import load\ndef work(x): return load(f'mine.a:{x}')",
            "mine.stage.work loads by a text that it puts together",
        ),
        ("import sys\ndef work(x): return sys.modules[x].f()", "`sys.modules` in line 2"),
        ("from mine.a import f\ndef work(): return f().__subclasses__()", "`__subclasses__` in line 2"),
        ("from mine.a import *\ndef work(x): f()", "mine.stage, line 1: a star import hides which names are used"),
        ("def work(x): (", "mine.stage is not valid Python"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_line(write: Write, stage: str, said: str) -> None:
    project = write(stage=stage, a="def f(): pass")
    with pytest.raises(StageError) as refused:
        code(project)
    assert said in str(refused.value)


def test_a_module_that_a_carrier_runs_counts_when_it_is_named(write: Write) -> None:
    project = write(stage="def work(): pass", a="def f(): pass\nif __name__ == '__main__':\n    f()")
    assert list(code(project, entries=("mine.stage:work", "mine.a"))) == [
        "mine.a.__main__",
        "mine.a.f",
        "mine.stage.work",
    ]


def test_files_that_are_read_count_by_content_and_by_their_name_below_their_folder(project: Path) -> None:
    pages = project / "pages"
    pages.mkdir()
    (pages / "page.html").write_text("<p>")
    first = fingerprint(("mine.stage:work",), project, None, (pages,)).code
    (pages / "page.html").write_text("<p>!")
    second = fingerprint(("mine.stage:work",), project, None, (pages,)).code
    assert {name for name in first if first[name] != second[name]} == {"pages/page.html"}


def test_libraries_are_those_that_the_reached_code_takes_something_from(write: Write) -> None:
    project = write(
        stage="import json, numpy as np, polars\nfrom mine import a\ndef work(): return a.f(np.zeros(3))\n",
        a="import yaml\nimport pyarrow.parquet as pq\nfrom PIL import Image\n"
        "def f(x): return pq.read_table\ndef g(): return yaml, Image",
    )
    found = fingerprint(("mine.stage:work",), project).libraries
    assert set(found) == {"numpy", "pyarrow", "python"}


def test_the_carriers_do_not_count_nor_what_only_they_reach(write: Write) -> None:
    project = write(
        stage="from tasks.core.batches import do_batch\nfrom tasks.core.digest import digest\n"
        "def work(): return do_batch, digest\n"
    )
    assert {name for name in code(project) if name.startswith("tasks.")} == {
        "tasks.core.digest.DIGEST_LENGTH",
        "tasks.core.digest.canonical",
        "tasks.core.digest.digest",
    }


def test_equal_values_have_one_canonical_text() -> None:
    assert canonical({"b": 1, "a": [1.5, None, "ä"]}) == '{"a":[1.5,null,"ä"],"b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})
