"""Tables by name: how a setting chooses one of several families, objectives, optimizers or formats.

A dict literal of the type `ByName` is such a table. Of its entries a stage's key takes those whose names stand in the
request, so that another one that joins the table reruns nothing (tasks/core/closure.py). Where an entry is heavy to
import it is a string, "module:symbol", which `load` imports.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainValidator
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_before_validator_function

T = TypeVar("T")
ByName = Mapping[str, T]


def load(entry: str) -> Any:
    """What a string "module:symbol" names."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


class one_of:
    """Lets a setting be one of the table's names, and says so in its schema."""

    def __init__(self, table: ByName[Any]) -> None:
        self.table = table

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": [*self.table]}

    def _check(self, name: object) -> object:
        if not isinstance(name, str) or name not in self.table:
            names = [*map(repr, self.table)]
            known = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": known})
        return name


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
