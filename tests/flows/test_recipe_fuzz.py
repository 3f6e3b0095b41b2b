"""Recipes that nobody would write on purpose: each is either taken, or refused in one short sentence, at once.

Mutations are arithmetic on a seed, so a failing case can be had again by its number. A sample runs with every test run,
`pytest -m slow` runs thousands.
"""

import random
import re
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.checks import check
from flows.recipe import KINDS, Recipe, TextRecipe, load_recipe, recipe_of
from tasks.core.errors import UserError
from tests.conftest import PROJECT

LONGEST = 300
MOST_S = 2.0
"""Processor time, which does not depend on what else the machine does."""
INGEST = "name: small\ningest: {sources: [{kind: python-docs}]}\n"
OTHER_KINDS = (
    "name: pictures\nimages:\n  sources: [{name: a, paths: [/no/such/folder]}]\n  size: 32\n  labels: [cat, dog]\n",
    "name: shop\ninteractions:\n  sources:\n    - {kind: csv, name: a, paths: [/no/such.csv], time: null}\n",
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 255, 10**6, 10**9, 2**63 - 1, 2**63, -(2**63), 10**30, int("9" * 4000)),
    *(0.0, 1.0, -0.5, 0.1, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        " ",
        "no",
        "yes",
        "on",
        "~",
        "null",
        ".inf",
        "nan",
        "inf",
        "1e999",
        "1_000",
        "0x_",
        "0o9",
        "12:30:45",
        "\uff11\uff12",
    ),
    *("x" * 5000, "a\x00b", "\x1b[2J", "\u202egpj", "line\nfeed", "[/]", "[bold]", "{}", "%s", "{0}", "\\", "'", '"'),
    *(
        "~nosuchuser/x",
        "~",
        "$HOME/x",
        "/dev/zero",
        "/proc/**",
        "/proc/self/mem",
        "../" * 2000,
        "/" + "a" * 300,
        "a/" * 3000,
    ),
    *("http://u:p@host/x", "https://host/x?token=abc", "://", "http://[", "nosuch://x/y", "owner/no-such-name"),
    *("tiny", "huge", "masked_token", "muon", "fsdp", "dask", "ray", "bpe", "wordpiece", "2001-99-99", "2001-01-01"),
    *(date(2001, 1, 1), b"\xff\x00", [], {}, [[]], {"a": 1}, {"": None}, [None], ["x"] * 300, {1: 2, None: 3}),
)
SNIPPETS = (
    *(
        "a: &a [1]",
        "b: *a",
        "<<: {a: 1}",
        "? [x]\n: y",
        "!!python/object/apply:os.system ['true']",
        "!!binary x",
        "--- ",
        "...",
    ),
    *(
        "%YAML 1.1",
        "%TAG ! tag:x,2000:",
        "\t",
        "- ",
        ": ",
        "? ",
        "| ",
        "> ",
        "{",
        "}",
        "[",
        "]",
        "'",
        '"',
        "#",
        "@",
        "`",
        "!",
    ),
    *(
        "[" * 400,
        "{a: " * 400,
        "- " * 400,
        "a: " * 50,
        "\x00",
        "\ufeff",
        "\u2028",
        "\x85",
        "\ud800".encode("utf-8", "replace").decode(),
    ),
)


def bases() -> list[str]:
    """Every recipe that ships or stands in the README, and one of each other kind."""
    shipped = [(PROJECT / "deployments" / f"{name}.yaml").read_text() for name in ("quickstart", "masked")]
    blocks = re.findall(r"```yaml\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    whole = [block if "ingest:" in block else f"{INGEST}{block}" for block in blocks]
    return [*shipped, *whole, *OTHER_KINDS]


BASES = bases()


def mutated(seed: int) -> bytes:
    """One recipe with a few things wrong: in its values and keys, in its lines, or in its bytes."""
    chance = random.Random(seed)
    text = chance.choice(BASES)
    how = chance.choice(("values", "values", "lines", "bytes"))
    if how == "values":
        content = yaml.safe_load(text)
        for _ in range(chance.randint(1, 3)):
            change_a_value(content, chance)
        return yaml.dump(content, allow_unicode=chance.random() < 0.5, sort_keys=False).encode("utf-8", "surrogatepass")
    if how == "lines":
        lines = text.splitlines()
        for _ in range(chance.randint(1, 4)):
            change_a_line(lines, chance)
        return "\n".join(lines).encode()
    content = bytearray(text.encode())
    for _ in range(chance.randint(1, 12)):
        at = chance.randrange(len(content))
        new = (
            chance.randbytes(2) if chance.random() < 0.1 else bytes(chance.choices(range(128), k=chance.randint(0, 2)))
        )
        content[at : at + chance.choice((0, 0, 1, 1, 5))] = new
    return bytes(content)


def change_a_value(content: Any, chance: random.Random) -> None:
    """Replace, remove, rename, nest or add something at a place that is reached by chance."""
    place = content
    while isinstance(place, dict | list) and place:
        key = chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
            place = place[key]
            continue
        how = chance.choice(("replace", "replace", "replace", "remove", "rename", "nest", "add"))
        if how == "replace":
            place[key] = chance.choice(VALUES)
        elif how == "remove":
            del place[key]
        elif how == "rename" and isinstance(place, dict):
            place[chance.choice((f"{key}s", str(key)[1:], "", 0, None, "<<", "name", "tokens", "path"))] = place.pop(
                key
            )
        elif how == "nest":
            place[key] = chance.choice(([place[key]], {"a": place[key]}, {key: place[key]}))
        elif isinstance(place, dict):
            place[chance.choice(KEYS)] = chance.choice(VALUES)
        return


def change_a_line(lines: list[str], chance: random.Random) -> None:
    at = chance.randrange(len(lines))
    how = chance.choice(("double", "remove", "indent", "swap", "insert", "append", "cut"))
    if how == "double":
        lines.insert(chance.randrange(len(lines)), lines[at])
    elif how == "remove" and len(lines) > 1:
        del lines[at]
    elif how == "indent":
        lines[at] = " " * chance.randint(0, 9) + lines[at].lstrip()
    elif how == "swap":
        other = chance.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif how == "insert":
        lines.insert(at, chance.choice(SNIPPETS))
    elif how == "append":
        lines[at] += chance.choice(SNIPPETS)
    else:
        lines[at] = lines[at][: chance.randint(0, len(lines[at]))]


def known_keys() -> list[str]:
    keys: set[str] = set()
    for kind in KINDS.values():
        schema = kind.model_json_schema()
        for definition in [schema, *schema.get("$defs", {}).values()]:
            keys.update(definition.get("properties", {}))
    return sorted(keys)


KEYS = known_keys()
SCHEMA = TextRecipe.model_json_schema()


def answer(path: Path) -> Recipe | str:
    """The recipe, or the sentence; fails on anything else, and where it takes long."""
    began = time.process_time()
    said: Recipe | str
    try:
        said = load_recipe(path)
    except UserError as error:
        said = str(error)
    assert time.process_time() - began < MOST_S
    if isinstance(said, str):
        assert_is_a_sentence(said)
    return said


def assert_is_a_sentence(said: str) -> None:
    assert 0 < len(said) <= LONGEST
    assert said.isprintable(), said


def try_mutations(folder: Path, seeds: range) -> tuple[int, int]:
    """How many of the mutated recipes were taken, and how many refused."""
    taken = 0
    for seed in seeds:
        path = folder / "recipe.yaml"
        path.write_bytes(mutated(seed))
        try:
            taken += not isinstance(answer(path), str)
        except BaseException as error:
            raise AssertionError(f"mutation {seed}: {path.read_bytes()[:2000]!r}") from error
    return taken, len(seeds) - taken


def test_a_mutated_recipe_is_taken_or_refused_in_a_sentence(tmp_path: Path) -> None:
    taken, refused = try_mutations(tmp_path, range(300))
    assert min(taken, refused) > 15, "both happen, or the mutations test nothing"


@pytest.mark.slow
def test_four_thousand_mutated_recipes_are_taken_or_refused_in_a_sentence(tmp_path: Path) -> None:
    taken, refused = try_mutations(tmp_path, range(1_000, 5_000))
    assert min(taken, refused) > 200


def small_recipe(folder: Path) -> dict[str, Any]:
    """A recipe that can be, over a small folder, with something in every block that looks outside."""
    (folder / "a.jsonl").write_text('{"body": "A text.", "id": "x"}\n')
    (folder / "quiz.csv").write_text("question,answer\nWho?,They.\n")
    columns = {"text": "body", "id": "id"}
    sources = [
        {"kind": "files", "name": "a", "paths": [f"{folder}/*.jsonl", f"{folder}/**/*.jsonl"], "columns": {**columns}},
        {"kind": "files", "name": "b", "paths": [str(folder / "a.jsonl")], "columns": {**columns}},
    ]
    return {
        "name": "small",
        "engine": {"kind": "local", "workers": 2},
        "ingest": {"sources": sources, "reject_limit": 0.1},
        "filter": {"gopher_quality": {"min_words": 1, "max_words": 10}, "language": {"allowed": ["en"]}},
        "decontaminate": {"sets": {"quiz": {"path": f"{folder}/*.csv", "columns": ["question", "answer"]}}},
        "tokenizer": {"kind": "wordpiece", "vocabulary": 512, "heldout": 0.1},
        "pretrain": {
            "size": "tiny",
            "objective": "masked_token",
            "mixture": {"a": 1, "b": 2},
            "machine": {"devices": 1},
        },
        "finetune": {"examples": {"classes": 2}, "training": {"labels": 30, "epochs": 1}},
    }


def try_checks_of_mutations(folder: Path, seeds: range) -> tuple[int, int]:
    """How many recipes were right although something was changed, and how many were refused, by blocks or checks."""
    check(recipe_of(small_recipe(folder)))
    taken = 0
    for seed in seeds:
        chance, content = random.Random(seed), small_recipe(folder)
        change_a_value(content, chance)
        path = folder / "recipe.yaml"
        path.write_text(yaml.dump(content, sort_keys=False))
        try:
            recipe = answer(path)
            if isinstance(recipe, str):
                continue
            began = time.process_time()
            try:
                check(recipe)
                taken += 1
            except UserError as error:
                assert_is_a_sentence(str(error))
            assert time.process_time() - began < MOST_S
        except BaseException as error:
            raise AssertionError(f"mutation {seed}: {content!r}") from error
    return taken, len(seeds) - taken


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is home and current folder, and no hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_with_one_thing_changed_is_checked_in_a_sentence(alone: Path) -> None:
    taken, refused = try_checks_of_mutations(alone, range(200))
    assert min(taken, refused) > 10


@pytest.mark.slow
def test_thousands_of_recipes_with_one_thing_changed_are_checked_in_a_sentence(alone: Path) -> None:
    taken, refused = try_checks_of_mutations(alone, range(1_000, 5_000))
    assert min(taken, refused) > 300


def drawn(schema: dict[str, Any], definitions: dict[str, Any], chance: random.Random, fill: float) -> Any:
    """A value that a JSON schema allows, at its bounds more often than between them."""
    if "$ref" in schema:
        return drawn(definitions[schema["$ref"].rpartition("/")[2]], definitions, chance, fill)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return drawn(chance.choice(schema[several]), definitions, chance, fill)
    if "enum" in schema:
        return chance.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        needed = schema.get("required", ())
        return {
            name: drawn(inner, definitions, chance, fill)
            for name, inner in schema["properties"].items()
            if name in needed or chance.random() < fill
        }
    if kind == "object":
        return {}
    if kind == "array":
        count = max(schema.get("minItems", 0), chance.randint(0, 2))
        inner = schema.get("items", {"type": "string"})
        return [drawn(inner, definitions, chance, fill) for _ in range(count)]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", 1 << 62))
        low += ("exclusiveMinimum" in schema) * (1 if kind == "integer" else 1e-9)
        high -= ("exclusiveMaximum" in schema) * (1 if kind == "integer" else 1e-9)
        some = (low, high, low + (high - low) / 2, min(high, low + 1), min(high, low + 7), min(high, max(low, 64)))
        number = chance.choice(some)
        return int(number) if kind == "integer" else number
    return {"boolean": chance.random() < 0.5, "null": None}.get(str(kind), chance.choice(("a", "no-such", "/no/such")))


def combination(seed: int, folder: Path) -> dict[str, Any]:
    """A recipe of text over a small folder, with settings drawn from the schema."""
    chance = random.Random(seed)
    content = drawn(SCHEMA, SCHEMA["$defs"], chance, chance.choice((0.2, 0.5)))
    content["name"] = "drawn"
    if any(
        source.get("kind", "python-docs") == "python-docs"
        for source in content["ingest"].get("sources", [{"kind": "python-docs"}])
    ):
        content["engine"] = "local"
        content["ingest"] = {"sources": [{"kind": "files", "name": "a", "paths": [str(folder)]}]}
    for block in ("tokenizer", "pretrain"):
        if chance.random() < 0.8:
            content.get(block, {}).pop("path" if block == "tokenizer" else "start", None)
    if chance.random() < 0.8:
        content.get("pretrain", {}).pop("masking", None)
        content.get("tokenizer", {}).pop("end_of_text", None)
    return content


def try_combinations(folder: Path, seeds: range) -> tuple[int, int, int]:
    """How many drawn recipes were taken, refused by their blocks, and refused by the checks."""
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("A text.")
    counts = [0, 0, 0]
    for seed in seeds:
        content = combination(seed, folder / "texts")
        try:
            try:
                recipe = recipe_of(content)
            except UserError:
                counts[1] += 1
                continue
            began = time.process_time()
            try:
                check(recipe)
                counts[0] += 1
            except UserError as error:
                assert_is_a_sentence(str(error))
                counts[2] += 1
            assert time.process_time() - began < MOST_S
        except BaseException as error:
            raise AssertionError(f"combination {seed}: {content!r}") from error
    return counts[0], counts[1], counts[2]


def test_the_checks_raise_nothing_but_a_sentence(alone: Path) -> None:
    taken, by_block, by_checks = try_combinations(alone, range(150))
    assert min(taken, by_block, by_checks) > 3


@pytest.mark.slow
def test_thousands_of_combinations_raise_nothing_but_a_sentence(alone: Path) -> None:
    assert min(try_combinations(alone, range(1_000, 5_000))) > 50
