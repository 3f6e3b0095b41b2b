"""Settings: what a person may ask for, each declared once, with its meaning, type, default and bounds.

What decides bytes and what does not are two types. A field is of its plain type if it decides; then it is part of a
stage's key, and of what a resumed training must find unchanged. It is of the type `NotInKey[...]` if it does not, or if
another field says more exactly what it does (a path, beside the hashes of what lies there).

The string below a field is its description: for `nightschool settings`, for editors, and for .github/SETTINGS.md.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import CoreSchema, PydanticSerializationError

T = TypeVar("T")
Name = Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=100)]
"""What a person calls something that stands in ids and file names."""
PATTERNS = {
    r"^[\w.-]+$": "letters, digits, `_`, `.` and `-`",
    r"^[a-z0-9][a-z0-9-]{0,62}$": "small letters, digits and `-`, at most 63 of them, beginning with a letter or digit",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "the letters, digits and `_` of one import name",
}
"""What the patterns of settings want, in words."""
_FOR_KEY = {"key": True}
"""The context in which settings are dumped for a key."""


class _NotInKey:
    """Marks a field, and says so in its schema."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "decides": False}


NotInKey = Annotated[T, _NotInKey()]
"""The type of a setting that decides no byte by itself."""


class Settings(BaseModel):
    """Values, not state: equal fields are equal settings; an unknown name, NaN or infinity is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_serializer(mode="wrap")
    def _what_counts(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        values = handler(self)
        if info.context is _FOR_KEY:
            for name in not_in_key(type(self)):
                values.pop(name, None)
        return values

    def for_key(self) -> dict[str, Any]:
        """All that decides, as plain JSON values; raises as the function `for_key`."""
        return for_key(self)


def for_key(values: BaseModel) -> dict[str, Any]:
    """All that decides in the values of any model, as plain JSON values.

    Raises what a computed field raises, such as UserError for a file that is not there.
    """
    try:
        return values.model_dump(mode="json", context=_FOR_KEY)
    except PydanticSerializationError as error:
        raise error.__cause__ or error from None


@cache
def not_in_key(kind: type[BaseModel]) -> frozenset[str]:
    """The names of a class's fields that are no part of a key."""
    return frozenset(
        name for name, field in kind.model_fields.items() if any(isinstance(mark, _NotInKey) for mark in field.metadata)
    )


def flat(value: object, lists: Literal["whole", "of objects", "all"] = "whole", prefix: str = "") -> dict[str, object]:
    """Nested plain values as one level of dotted names.

    Args:
        lists: which of them are looked into and numbered from 0; the others are values.
    """
    looked_into = lists == "all" or (lists == "of objects" and isinstance(value, list) and _holds_objects(value))
    if isinstance(value, list) and looked_into:
        value = {str(number): inner for number, inner in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, object] = {}
    for name, inner in value.items():
        found |= flat(inner, lists, f"{prefix}.{name}" if prefix else name)
    return found


def _holds_objects(values: list[object]) -> bool:
    return any(isinstance(value, dict) for value in values)
