"""Fingerprints: what counts as a change of a stage's code."""

from pathlib import Path

import pytest

from tasks.core.fingerprint import canonical, code_fingerprint

STAGE = '''"""The stage."""
from mine.helper import double
import json

def work(x):
    """Doc."""
    return double(x)  # a comment
'''
HELPER = """def double(x):
    from mine import deep
    return 2 * x + deep.ZERO
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in {
        "__init__": "",
        "stage": STAGE,
        "helper": HELPER,
        "deep": "ZERO = 0\n",
        "other": "A = 1\n",
    }.items():
        (folder / f"{name}.py").write_text(text)
    return tmp_path


def replace(project: Path, module: str, old: str, new: str) -> None:
    file = project / "mine" / f"{module}.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_it_covers_the_module_and_all_it_imports_wherever_the_import_stands(project: Path) -> None:
    assert list(code_fingerprint("mine.stage", project)) == ["mine", "mine.deep", "mine.helper", "mine.stage"]


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("stage", "# a comment", "# another comment"),
        ("stage", '"""Doc."""', '"""Documentation."""'),
        ("stage", '"""The stage."""\n', '"""A stage."""\n\n\n'),
        ("helper", "2 * x + deep.ZERO", "(2 * x\n        + deep.ZERO)"),
        ("other", "A = 1", "A = 2"),
    ],
)
def test_comments_docstrings_layout_and_strangers_change_nothing(
    project: Path, module: str, old: str, new: str
) -> None:
    before = code_fingerprint("mine.stage", project)
    replace(project, module, old, new)
    assert code_fingerprint("mine.stage", project) == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [("stage", "double(x)", "double(x) + 1"), ("helper", "2 * x", "3 * x"), ("deep", "ZERO = 0", "ZERO = 1")],
)
def test_changed_code_is_named_by_its_module(project: Path, module: str, old: str, new: str) -> None:
    before = code_fingerprint("mine.stage", project)
    replace(project, module, old, new)
    after = code_fingerprint("mine.stage", project)
    assert {name for name in before if before[name] != after[name]} == {f"mine.{module}"}


def test_a_relative_import_is_followed(project: Path) -> None:
    replace(project, "stage", "from mine.helper import double", "from .helper import double")
    assert "mine.deep" in code_fingerprint("mine.stage", project)


def test_a_module_that_runs_in_a_child_process_counts_when_it_is_named(project: Path) -> None:
    assert "mine.other" in code_fingerprint("mine.stage", project, extra=("mine.other",))


def test_the_carrier_does_not_count() -> None:
    root = Path(__file__).parents[3]
    covered = code_fingerprint("tasks.ingest", root)
    assert "tasks.ingest" in covered
    assert not [name for name in covered if name.startswith("tasks.core")]


def test_equal_values_have_one_canonical_text() -> None:
    assert canonical({"b": 1, "a": [1.5, None, "ä"]}) == '{"a":[1.5,null,"ä"],"b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})
