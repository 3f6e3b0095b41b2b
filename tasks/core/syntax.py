"""Syntax trees: how they are parsed, compared, and walked by Python's rules of scope.

Two trees are compared by a form of our own, in which comments, docstrings and layout do not stand, and which is the
same on every Python that can parse the file (`ast.dump` is not: it names the fields that a release happens to have).
"""

import ast
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.core.errors import StageError

_IGNORED_FIELDS = frozenset(("ctx", "kind", "type_comment", "type_ignores", "docstring"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Tuples, not unions: a union is made anew each time that a node is looked at.
NAMES = (ast.Attribute, ast.Name)
IMPORTS = (ast.Import, ast.ImportFrom)
BINDING = (ast.Store, ast.Del)
_NAMING = (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_DOCUMENTED = (ast.Module, *DEFINITIONS)
_CLOSED = (*DEFINITIONS, ast.Lambda)
_ATTEMPTS = 3
_parsing = threading.Lock()


def parse(source: bytes, name: str) -> ast.Module:
    """The syntax tree; one thread at a time.

    CPython 3.11 keeps one counter for the depth of all trees under construction, so that threads that parse at the same
    time can meet `SystemError: AST constructor recursion depth mismatch`; others than us may be parsing.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with _parsing:
                return ast.parse(source, filename=name)
        except SystemError:
            if attempt == _ATTEMPTS - 1:
                raise
        except SyntaxError as error:
            raise StageError(f"{name} is not valid Python (line {error.lineno}: {error.msg}); mend it.") from error
    raise AssertionError("unreachable")


def form(node: ast.AST) -> str:
    """A text of the tree that is equal for equal code on every Python version: without docstrings, positions, empty
    fields and what only says how a literal was written."""
    parts: list[str] = []
    _write(node, parts.append)
    return "".join(parts)


def _write(value: Any, put: Any) -> None:
    if isinstance(value, ast.Constant):
        put(_literal(value.value))
    elif isinstance(value, ast.JoinedStr):
        put("JoinedStr(")
        for part in _joined(value):
            _write(part, put)
            put(",")
        put(")")
    elif isinstance(value, ast.AST):
        put(type(value).__name__)
        put("(")
        documented = isinstance(value, _DOCUMENTED)
        for name in value._fields:
            inner = getattr(value, name, None)
            if name == "body" and documented:
                inner = without_docstrings(inner or ())
            if inner is None or inner == [] or name in _IGNORED_FIELDS:
                continue
            put(name)
            put("=")
            _write(inner, put)
            put(",")
        put(")")
    elif isinstance(value, list):
        put("[")
        for inner in value:
            _write(inner, put)
            put(",")
        put("]")
    else:
        put(_literal(value))


def _literal(value: object) -> str:
    """As ASCII: what `repr` leaves readable depends on a release's table of Unicode."""
    return hex(value) if type(value) is int else ascii(value)


def _joined(string: ast.JoinedStr) -> Iterator[ast.expr]:
    """The parts of an f-string with neighbouring pieces of text as one: releases divide them differently."""
    held = ""
    for part in string.values:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            held += part.value
            continue
        if held:
            yield ast.Constant(held)
        held = ""
        yield part
    if held:
        yield ast.Constant(held)


def without_docstrings(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Drop bare strings: docstrings, and the strings below fields that document them."""
    return [
        statement
        for statement in body
        if not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        )
    ]


def chain_of(node: ast.expr) -> tuple[str, ...] | None:
    """("a", "b", "c") for `a.b.c`; None for what does not begin with a name."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return (node.id, *reversed(attributes)) if isinstance(node, ast.Name) else None


def is_text(node: ast.expr) -> bool:
    """Whether the expression is a string literal."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def names_of(target: ast.AST) -> set[str]:
    """Names that a target of an assignment binds."""
    nodes = ast.walk(target)
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, BINDING)}


def in_scope(node: ast.AST) -> list[ast.AST]:
    """The nodes below that run in the same scope: inner definitions are given, their insides are not; of comprehensions
    only what `:=` binds."""
    found: list[ast.AST] = []
    waiting = [] if isinstance(node, _CLOSED) else [node]
    while waiting:
        for child in children(waiting.pop()):
            if isinstance(child, COMPREHENSIONS):
                found += [inner.target for inner in ast.walk(child) if isinstance(inner, ast.NamedExpr)]
            else:
                found.append(child)
                if not isinstance(child, _CLOSED):
                    waiting.append(child)
    return found


def children(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes directly below a node, in the order of its fields; whether a name is read or bound is left out."""
    for name in node._fields:
        inner = getattr(node, name, None)
        if isinstance(inner, list):
            yield from (part for part in inner if isinstance(part, ast.AST))
        elif name != "ctx" and isinstance(inner, ast.AST):
            yield inner


def bound_by_text(node: ast.AST) -> Iterator[str]:
    """Names that stand in the tree as plain strings."""
    if isinstance(node, _NAMING) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
