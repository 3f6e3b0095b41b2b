"""The reference of all settings, read from their declarations: for a terminal, for editors, for SETTINGS.md."""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from flows.recipe import KINDS
from models.settings import PATTERNS
from tasks.core.errors import UserError

SCHEMA_URL = "http://json-schema.org/draft-07/schema#"
"""The draft that editors' YAML extensions know."""
HEADING = ("| key | values | default | meaning |", "|---|---|---|---|")
KIND_NAMES = {"ingest": "text", "images": "images", "interactions": "interactions"}
"""What a recipe is of, by the key that says so."""


@dataclass(frozen=True)
class Setting:
    """One key of a recipe."""

    key: str
    """Its dotted path; one in a list of several kinds names the kind, as in ingest.sources[files].paths."""
    values: str
    """Type and bounds, in words."""
    default: str
    """As YAML; empty: it must be given, or it is a block."""
    meaning: str
    decides: bool
    """Whether a change makes a stage run again."""
    is_block: bool
    """Whether it holds other keys."""


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe's file."""
    kinds = []
    definitions: dict[str, Any] = {}
    for key, kind in KINDS.items():
        schema = kind.model_json_schema()
        definitions |= schema.pop("$defs", {})
        kinds.append(schema | {"title": f"A recipe of {KIND_NAMES[key]}"})
    whole = {"$schema": SCHEMA_URL, "title": "A recipe of Nightschool", "anyOf": kinds, "$defs": definitions}
    return _without_noise(whole)


def schema_text() -> str:
    """The schema as the file that ships with the recipes."""
    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def settings() -> list[Setting]:
    """Every setting, in the order of the declarations; those that several kinds of recipes share stand once."""
    found: dict[str, Setting] = {}
    for kind in KINDS.values():
        for setting in _of_model(kind):
            found.setdefault(setting.key, setting)
    return list(found.values())


def look_up(word: str) -> list[Setting]:
    """The setting of that key with all below it; else those whose key, or last of all whose meaning, holds the word.

    Raises:
        UserError: there is none; it says the near one.
    """
    every, asked = settings(), word.strip("`. ").lower()
    for is_meant in (
        lambda one: one.key == asked or one.key.startswith((f"{asked}.", f"{asked}[")),
        lambda one: asked in one.key.replace("[", ".").replace("]", "").split("."),
        lambda one: asked in one.key,
        lambda one: asked in one.meaning.lower(),
    ):
        if found := [one for one in every if is_meant(one)]:
            return found
    last = {one.key.rpartition(".")[2]: one.key for one in every}
    near = difflib.get_close_matches(asked, [*last, *(one.key for one in every)], n=1)
    hint = f"did you mean `{last.get(near[0], near[0])}`?" if near else "`nightschool settings` lists all"
    raise UserError(f"no setting has to do with {word!r}; {hint}")


def as_markdown() -> str:
    """The page of all settings: a section a block, a row a setting."""
    lines = [
        "# Settings",
        "",
        "What a recipe may say, generated from the declarations by `nightschool settings --markdown`. In a terminal,",
        "`nightschool settings KEY` says the same of one key, and finds words. A key marked * changes no byte by",
        "itself and reruns nothing (of a path, what lies there counts).",
    ]
    section: str | None = None
    for one in settings():
        block = one.key if one.is_block else one.key.rpartition(".")[0]
        if one.is_block or block != section:
            section = block
            lines += ["", f"## {section or 'Every recipe'}", "", *([one.meaning, ""] if one.is_block else []), *HEADING]
        if not one.is_block:
            name = one.key.rpartition(".")[2] + ("" if one.decides else " *")
            cells = (name, one.values, f"`{one.default}`" if one.default else "", one.meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _of_model(kind: type[BaseModel]) -> Iterator[Setting]:
    schema = kind.model_json_schema()
    yield from _below("", schema, schema.get("$defs", {}), decides=True)


def _below(prefix: str, block: dict[str, Any], named: dict[str, Any], decides: bool) -> Iterator[Setting]:
    """The settings of a block: plain ones first, then its own blocks."""
    inner = []
    for name, declared in block.get("properties", {}).items():
        key = f"{prefix}.{name}" if prefix else name
        counts = decides and declared.get("decides", True)
        blocks = dict(_blocks(key, declared, named))
        if not blocks:
            default = _yaml(declared["default"]) if "default" in declared else ""
            yield Setting(key, _in_words(declared, named), default, _meaning(declared), counts, is_block=False)
        for place, found in blocks.items():
            inner.append((place, found, _meaning(declared) or _meaning(found), counts))
    for place, found, meaning, counts in inner:
        yield Setting(place, "", "", meaning, counts, is_block=True)
        yield from _below(place, found, named, counts)


def _blocks(key: str, declared: dict[str, Any], named: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The blocks of keys that may stand at a key: one, or one a kind of a list's items, or one for any name."""
    if "$ref" in declared:
        found = named[declared["$ref"].rpartition("/")[2]]
        if "properties" in found:
            yield key, found
        for choice in found.get("anyOf", ()):
            yield from _blocks(key, choice, named)
        return
    if "properties" in declared:
        yield key, declared
    for choice in (*declared.get("anyOf", ()), *declared.get("allOf", ())):
        yield from _blocks(key, choice, named)
    if isinstance(declared.get("items"), dict):
        items = declared["items"]
        for choice in items.get("oneOf", (items,)):
            for _, found in _blocks(key, choice, named):
                kind = found["properties"].get("kind", {}).get("const")
                yield f"{key}[{kind}]" if kind else f"{key}[]", found
    for inner in (declared.get("additionalProperties"), *declared.get("patternProperties", {}).values()):
        for _, found in _blocks(key, inner, named) if isinstance(inner, dict) else ():
            yield f"{key}.NAME", found


def _meaning(declared: dict[str, Any]) -> str:
    """As a person who writes YAML reads it."""
    said = re.sub(r"\bNone\b", "null", " ".join(str(declared.get("description", "")).split()))
    return said or ("Says of which kind it is." if "const" in declared else "")


def _in_words(declared: dict[str, Any], named: dict[str, Any]) -> str:
    """Type and bounds of a plain value."""
    if "$ref" in declared:
        return _in_words(named[declared["$ref"].rpartition("/")[2]], named)
    if "anyOf" in declared:
        return " or ".join(filter(None, (_in_words(choice, named) for choice in declared["anyOf"])))
    if "enum" in declared:
        return ", ".join(map(str, declared["enum"]))
    if "const" in declared:
        return str(declared["const"])
    kind = declared.get("type", "")
    if kind == "array":
        return f"list of {_in_words(declared.get('items', {}), named) or 'values'}"
    if kind == "object":
        return f"by name: {_in_words(declared.get('additionalProperties') or {}, named) or 'values'}"
    if kind == "string" and "pattern" in declared:
        return PATTERNS[declared["pattern"]]
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}
    bounds = [
        f"{sign} {declared[name]:,}"
        for name, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
        if name in declared
    ]
    return " ".join([words.get(kind, kind), ", ".join(bounds)]).strip()


def _yaml(value: Any) -> str:
    """In one line; JSON is YAML."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w-]*", value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _without_noise(schema: Any) -> Any:
    """The schema without titles made of names, and without defaults of blocks: they hold what nobody may write."""
    if isinstance(schema, list):
        return [_without_noise(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for name, inner in schema.items():
        if name == "properties":
            kept[name] = {key: _without_title(_without_noise(value)) for key, value in inner.items()}
        elif name == "default" and isinstance(inner, dict | list):
            continue
        elif name != "discriminator":
            kept[name] = _without_noise(inner)
    if "const" in schema.get("properties", {}).get("kind", {}):  # which one it is must be said
        kept["required"] = ["kind", *kept.get("required", ())]
    return kept


def _without_title(schema: Any) -> Any:
    return {name: inner for name, inner in schema.items() if name != "title"} if isinstance(schema, dict) else schema
