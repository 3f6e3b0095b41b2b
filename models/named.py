"""Tables by name: how a setting chooses one of several families, objectives, optimizers or formats.

A dict literal of the type `ByName` is such a table. Of its entries a stage's key takes those whose names stand in the
request, so that another one that joins the table reruns nothing (tasks/core/closure.py). Where an entry is heavy to
import it is a string, "module:symbol", which `load` imports.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, PlainValidator
from pydantic_core import PydanticCustomError

T = TypeVar("T")
ByName = Mapping[str, T]


def load(entry: str) -> Any:
    """What a string "module:symbol" names."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def one_of(table: ByName[Any]) -> BeforeValidator:
    """Lets a setting be one of the table's names."""

    def check(name: object) -> object:
        if not isinstance(name, str) or name not in table:
            known = " or ".join(filter(None, (", ".join(map(repr, [*table][:-1])), repr([*table][-1]))))
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": known})
        return name

    return BeforeValidator(check)


def chosen_by(field: str, table: ByName[type[BaseModel]], default: str) -> PlainValidator:
    """Makes an object of plain values by the class that the table has for their `field`, or for the default."""

    def check(value: Any) -> BaseModel:
        if isinstance(value, BaseModel):
            return value
        name = str(value.get(field, default)) if isinstance(value, dict) else ""
        if name not in table:
            raise ValueError(f"{field} is {name!r}, and there are {', '.join(table)}")
        return table[name].model_validate(value)

    return PlainValidator(check)
