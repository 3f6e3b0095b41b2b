"""Recipes: strict, with one sentence for each way of getting one wrong."""

import re
from pathlib import Path

import pytest

from flows.recipe import TextRecipe, load_recipe
from flows.recipe_file import find_recipe
from tasks.core.errors import UserError
from tests.conftest import PROJECT

GOOD = "name: small\ningest:\n  sources:\n    - kind: python-docs\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return file


def test_a_recipe_that_names_only_a_source_has_a_default_for_all_else(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    assert isinstance(recipe, TextRecipe)
    assert recipe.name == "small"
    assert recipe.finetune is None
    assert recipe.tokenizer.vocabulary > 0


def test_every_recipe_that_ships_is_valid_under_its_own_name() -> None:
    for name in ("quickstart", "masked"):
        assert load_recipe(Path(name)).name == name
        assert find_recipe(Path(name)).is_file()


def test_every_recipe_in_the_readme_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        load_recipe(written(tmp_path, block if "ingest:" in block else GOOD + block))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD + "deduplicate:\n  treshold: 0.8\n", "unknown key `deduplicate.treshold`; did you mean `threshold`?"),
        (GOOD + "zzz: 1\n", "unknown key `zzz`; remove it or see the recipes in deployments/"),
        ("name: small\n", "the key `ingest` (or `images`, or `interactions`) is missing; add it"),
        (GOOD.replace("small", "Small Talk"), "`name` is 'Small Talk'; write it with small letters, digits and `-`"),
        (GOOD + "deduplicate:\n  threshold: high\n", "`deduplicate.threshold`: input should be a valid number"),
        (
            GOOD + "pretrain:\n  masking:\n    rate: 0.3\n",
            "`pretrain`: masking is for `objective: masked_token`",
        ),
        (GOOD + "pretrain:\n  size: huge\n", "`pretrain.size`: input should be 'tiny', 'mini'"),
        (GOOD + "tokenizer: [\n", "is not valid YAML at line"),
        ("- a\n- b\n", "must be a mapping such as `name: ...`"),
        (GOOD.replace("python-docs", "pyton-docs"), "`ingest.sources.0`"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_place(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(written(tmp_path, text))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert "recipe.yaml" in str(error.value)


def test_a_missing_recipe_says_which_ones_ship(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"there is no recipe .*nowhere.yaml; give the path of a YAML file or one of .*quickstart"
    ):
        load_recipe(tmp_path / "nowhere.yaml")


def test_an_unreadable_recipe_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path / "r.yaml")


def test_a_recipe_cannot_make_python_objects(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the tag !!python/object/apply:os\.system; recipes hold plain values"):
        load_recipe(written(tmp_path, "name: !!python/object/apply:os.system ['true']\n"))


def test_a_continued_model_brings_its_tokenizer(tmp_path: Path) -> None:
    start = f"pretrain:\n  start: {tmp_path}\n"
    (tmp_path / "tokenizer.json").write_text("{}")
    recipe = load_recipe(written(tmp_path, GOOD + start))
    assert isinstance(recipe, TextRecipe)
    assert recipe.tokenizer.path == tmp_path
    recipe = load_recipe(written(tmp_path, GOOD + start + "tokenizer:\n  heldout: 0.2\n"))
    assert isinstance(recipe, TextRecipe)
    assert (recipe.tokenizer.path, recipe.tokenizer.heldout) == (tmp_path, 0.2)
    with pytest.raises(UserError, match="an adopted tokenizer is not trained: remove vocabulary, or path"):
        load_recipe(written(tmp_path, GOOD + start + "tokenizer:\n  vocabulary: 512\n"))
