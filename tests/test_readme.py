"""What the README promises is shown by tests, and what it names is there."""

import ast
import re
from pathlib import Path

import pytest

from flows.reference import settings
from tests.conftest import PROJECT
from tests.flows.test_cli import VERBS

README = (PROJECT / "README.md").read_text()
PROOFS = {
    "Nothing is done twice, nothing done is trusted blindly": (
        "tests/flows/nights/test_night.py::test_run_again_everything_is_reused_with_the_same_digests_and_nothing_is_written_or_trained",
        "tests/tasks/core/test_store.py::test_a_damaged_artifact_is_named_moved_aside_and_made_again",
    ),
    "Kill it anywhere, run it again: the same bits": (
        "tests/chaos/test_pipeline_kill.py::test_a_night_killed_among_its_data_and_in_its_training_ends_with_the_same_artifacts",
        "tests/chaos/test_data_kill.py::test_data_stages_that_are_killed_end_with_the_same_artifacts",
        "tests/chaos/test_training_kill.py::test_kills_at_random_steps_change_no_bit",
        "tests/chaos/test_training_kill.py::test_kills_in_every_phase_of_saving_change_no_bit",
    ),
    "A tracking outage loses nothing and stops nothing": (
        "tests/chaos/test_mlflow_outage.py::test_training_goes_on_without_mlflow_whose_history_then_equals_the_journal",
        "tests/tasks/tracking/test_sender.py::test_an_empty_mlflow_is_rebuilt_from_the_journal",
    ),
    "It says why before it does": (
        "tests/flows/nights/test_night.py::test_a_changed_setting_reruns_its_stage_and_what_its_output_changes_as_the_plan_said",
        "tests/flows/nights/test_night.py::test_a_changed_helper_reruns_what_uses_it_and_the_plan_names_it",
        "tests/flows/nights/test_trunk.py::test_the_plan_says_from_which_night_it_goes_on",
    ),
}
"""The tests that show a promise of the README's table."""


def test_every_promise_has_tests_that_show_it() -> None:
    table = README.partition("## What it promises")[2].partition("\n\n")[2].partition("\n\n")[0]
    promises = [row.split("|")[1].strip() for row in table.splitlines()[2:]]
    assert promises == [*PROOFS]


@pytest.mark.parametrize("proof", [proof for proofs in PROOFS.values() for proof in proofs])
def test_a_named_proof_is_a_test(proof: str) -> None:
    file, _, name = proof.partition("::")
    tree = ast.parse((PROJECT / file).read_bytes())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_command_is_in_the_readme() -> None:
    assert {verb for verb in VERBS if f"nightschool {verb}" not in README} == set()
    named = set(re.findall(r"^(?:uv run )?nightschool ([a-z]+)", README, re.MULTILINE))
    assert named - set(VERBS) == set()


def test_every_block_of_settings_that_the_readme_shows_is_one() -> None:
    blocks = {one.key.partition(".")[0] for one in settings()}
    shown = {
        line.partition(":")[0]
        for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
        if line and line[0].isalpha()
    }
    assert shown - blocks == set()


def test_every_file_that_a_page_links_to_is_there() -> None:
    for page in (PROJECT / "README.md", *(PROJECT / ".github").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_file_that_a_docstring_or_page_names_is_there() -> None:
    """A path such as tasks/core/store.py in prose is one that can be opened."""
    pages = [*PROJECT.glob("*.md"), *(PROJECT / ".github").glob("*.md")]
    sources = [path for floor in ("flows", "tasks", "models", "tests") for path in (PROJECT / floor).rglob("*.py")]
    for page in [page for page in pages if page.name != "CHANGELOG.md"] + sources:
        for target in re.findall(r"(?<![\w/.])(?:flows|tasks|models)/[\w/]+\.py\b", page.read_text()):
            assert Path(PROJECT / target).is_file(), f"{page.relative_to(PROJECT)} names {target}"
