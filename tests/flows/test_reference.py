"""The reference of settings says what the declarations say: in a terminal, to editors, and on its page."""

import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flows.recipe import KINDS
from flows.recipe_file import parse
from flows.reference import as_markdown, look_up, recipe_schema, schema_text, settings
from models.settings import PATTERNS
from tasks.core.errors import UserError
from tests.conftest import PROJECT
from tests.tiny import TINY, Commands

DEPLOYMENTS = PROJECT / "deployments"
RECIPES = sorted(path for path in DEPLOYMENTS.rglob("*.yaml") if path.name != "prefect.yaml")
SCHEMA = jsonschema.Draft7Validator(recipe_schema())


def test_every_setting_says_what_it_means_and_what_it_may_be() -> None:
    for one in settings():
        assert one.meaning, one.key
        assert one.is_block or one.values, one.key
        assert "None" not in one.meaning, f"{one.key} is read by who writes YAML, where it is null"


def test_every_field_of_every_kind_of_recipe_is_there() -> None:
    keys = {above for one in settings() for above in accumulate(re.split(r"[.\[]", one.key), "{}.{}".format)}
    for kind in KINDS.values():
        for name, field in kind.model_fields.items():
            inner = getattr(field.annotation, "model_fields", {})
            assert {name, *(f"{name}.{key}" for key in inner)} <= keys


def test_a_key_is_found_with_all_below_it_then_by_its_last_word_then_by_its_meaning() -> None:
    assert [one.key for one in look_up("pretrain.masking")] == [
        "pretrain.masking",
        "pretrain.masking.rate",
        "pretrain.masking.corruption",
    ]
    assert [one.key for one in look_up("learning_rate")] == [
        "pretrain.learning_rate",
        "finetune.training.learning_rate",
    ]
    assert "ingest.sources[files].paths" in [one.key for one in look_up("s3://")]
    with pytest.raises(UserError, match=r"no setting has to do with 'lerning'; did you mean `.*learning_rate`"):
        look_up("lerning")


def test_types_bounds_defaults_and_choices_are_told() -> None:
    (rate,) = look_up("pretrain.masking.rate")
    assert (rate.values, rate.default, rate.decides) == ("number > 0, < 1", "0.15", True)
    (algorithm,) = look_up("pretrain.algorithm")
    assert (algorithm.values, algorithm.default) == ("adamw, muon", "adamw")
    (devices,) = look_up("pretrain.machine.devices")
    assert not devices.decides


def test_the_page_and_the_schema_that_are_kept_are_those_that_are_generated() -> None:
    again = "generate it anew: nightschool settings --{}"
    assert (PROJECT / ".github" / "SETTINGS.md").read_text() == as_markdown(), again.format("markdown")
    assert (DEPLOYMENTS / "recipe.schema.json").read_text() == schema_text(), again.format("schema")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_ships_fits_the_schema_that_it_names(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == DEPLOYMENTS / "recipe.schema.json"
    assert [error.message for error in SCHEMA.iter_errors(parse(path.read_text()))] == []
    assert yaml.safe_load(path.read_text()) == parse(path.read_text()), "editors read the same values"


@pytest.mark.parametrize(
    "change",
    [
        {"pretrain": {"layer": 4}},
        {"pretrain": {"learning_rate": 2}},
        {"pretrain": {"algorithm": "sgd"}},
        {"ingest": {"sources": [{"kind": "file", "paths": ["a"], "name": "b"}]}},
        {"ingest": {"sources": [{"paths": ["a"], "name": "b"}]}},
        {"engine": "spark"},
        {"images": {"sources": []}},
    ],
)
def test_an_editor_marks_what_a_run_would_refuse(change: dict[str, Any]) -> None:
    assert not list(SCHEMA.iter_errors(TINY))
    assert list(SCHEMA.iter_errors({**TINY, **change}))


def test_every_pattern_is_told_in_words() -> None:
    patterns = set(re.findall(r'"pattern": "(.*?)"', json.dumps(recipe_schema())))
    assert {json.loads(f'"{pattern}"') for pattern in patterns} == set(PATTERNS)


def test_a_short_engine_is_valid_for_editors_too() -> None:
    for engine in ("dask", {"kind": "ray", "workers": 2}):
        assert not list(SCHEMA.iter_errors({**TINY, "engine": engine}))


def test_the_command_prints_them(tiny: Commands) -> None:
    done = tiny("settings", "deduplicate.threshold")
    assert done.returncode == 0
    assert done.stdout.startswith("deduplicate.threshold  number > 0, ≤ 1, default 0.75\n")
    (found,) = tiny.json("settings", "deduplicate.threshold")
    assert (found["key"], found["default"]) == ("deduplicate.threshold", "0.75")
    assert json.loads(tiny("settings", "--schema").stdout) == recipe_schema()
