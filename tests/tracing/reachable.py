"""Which functions and classes a stage reaches, computed from live objects: bytecode, globals, closures, fields.

Knows nothing of how fingerprints are made (those read files and import nothing), so the two check each other.
"""

import ast
import contextlib
import dis
import functools
import importlib
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PROJECT = ("flows", "tasks", "models")
ENTRY = re.compile(r"((?:tasks|models)(?:\.\w+)+):(\w+)")


class Reachable:
    """The functions and classes that are reached from some objects, as `module.name`."""

    def __init__(self, stops: Iterable[str]) -> None:
        """`stops` are modules and symbols beyond which nothing is followed."""
        self.found: set[str] = set()
        self._stops = tuple(stops)
        self._done: set[int] = set()
        self._held: list[Any] = []  # so that no id is used twice
        self._made: set[tuple[str, str]] = set()

    def reach(self, value: Any) -> None:
        if id(value) in self._done:
            return
        self._done.add(id(value))
        self._held.append(value)
        value = getattr(value, "py_func", value)  # numba's
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, str):
            if match := ENTRY.fullmatch(value):
                with contextlib.suppress(ModuleNotFoundError):  # pydantic's names of schemas look alike
                    self.reach(getattr(importlib.import_module(match[1]), match[2]))
        elif isinstance(value, Mapping):
            for item in list(value.values()):
                self.reach(item)
        elif isinstance(value, tuple | list | set | frozenset):
            for item in list(value):
                self.reach(item)
        elif isinstance(value, property):
            self._all((value.fget, value.fset))
        elif isinstance(value, functools.cached_property):
            self.reach(value.func)
        elif isinstance(value, staticmethod | classmethod | types.MethodType):
            self.reach(value.__func__)
        elif typing.get_origin(value) is not None or isinstance(value, types.UnionType):
            self._all((*typing.get_args(value), *getattr(value, "__metadata__", ())))
        elif type(value).__module__.startswith("pydantic") or hasattr(value, "wrapped"):
            names = ("func", "wrapped", "annotation", "metadata", "default", "default_factory")
            self._all(getattr(value, name, None) for name in names)
        elif type(value).__module__.partition(".")[0] in PROJECT:
            self.reach(type(value))
            self._all(vars(value).values() if hasattr(value, "__dict__") else ())
        elif hasattr(value, "func") and hasattr(value, "args"):  # a partial
            self._all((value.func, *value.args))
        elif hasattr(value, "cache_info"):
            self.reach(value.__wrapped__)

    def _all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.reach(value)

    def _name(self, value: Any) -> bool:
        """Notes it; False for what is not the project's or stops here."""
        module, name = value.__module__ or "", value.__qualname__.partition(".")[0]
        if module.partition(".")[0] not in PROJECT:
            return False
        if self._stops_at(module, name):
            return False
        if "<" not in name:
            self.found.add(f"{module}.{name}")
            if name != value.__qualname__ and "<locals>" not in value.__qualname__:
                self.reach(getattr(sys.modules[module], name))  # a method: its class is one thing
        return True

    def _stops_at(self, module: str, name: str) -> bool:
        return any(stop == f"{module}.{name}" or f"{module}.".startswith(f"{stop}.") for stop in self._stops)

    def _function(self, function: types.FunctionType) -> None:
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.reach(wrapped)
        if self._name(function):
            self._all((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()))
            self._all(cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell))
            self._code(function.__code__, function.__globals__)

    def _class(self, cls: type) -> None:
        if not self._name(cls):
            return
        self._all(cls.__mro__[1:])
        self._all(value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__"))
        names = vars(sys.modules[cls.__module__])
        for annotation in vars(cls).get("__annotations__", {}).values():
            self._annotation(annotation, names)
        self._all(getattr(cls, "model_fields", {}).values() if hasattr(cls, "model_fields") else ())

    def _annotation(self, annotation: Any, names: dict[str, Any]) -> None:
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, dict(names))
            except NameError:  # known to type checkers only
                return
        self.reach(annotation)

    def _code(self, code: types.CodeType, names: dict[str, Any]) -> None:
        instructions = list(dis.get_instructions(code))
        for position, instruction in enumerate(instructions):
            if instruction.argval == "__file__":
                self.reach(names.get("_answer"))  # what such a file does when it is run
            elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval in names:
                self._through(names[instruction.argval], instructions[position + 1 :])
                if not isinstance(names[instruction.argval], types.ModuleType | types.FunctionType | type):
                    self._making(names["__name__"], instruction.argval)
            elif instruction.opname == "IMPORT_NAME":
                for value in _imported(instructions, position, names):
                    self.reach(value)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, names)
            elif isinstance(constant, str):
                self.reach(constant)

    def _making(self, module: str, name: str) -> None:
        """What computed a constant when its module was imported: of that its value shows no trace."""
        if (module, name) in self._made or module.partition(".")[0] not in PROJECT or self._stops_at(module, name):
            return
        self._made.add((module, name))
        for statement in ast.parse(Path(str(sys.modules[module].__file__)).read_bytes()).body:
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if (alias.asname or alias.name) == name and statement.module in sys.modules:
                        self._making(statement.module, alias.name)
            elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign) and statement.value:
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                if name in {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}:
                    making = compile(ast.Expression(statement.value), "<making>", "eval")
                    self._code(making, vars(sys.modules[module]))

    def _through(self, value: Any, following: list[dis.Instruction]) -> None:
        """Attributes of modules are taken one by one."""
        for instruction in following:
            if not isinstance(value, types.ModuleType):
                break
            own = value.__name__.partition(".")[0] in PROJECT
            if not own or instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                return
            value = getattr(value, instruction.argval)
        self.reach(value)


def _imported(instructions: list[dis.Instruction], position: int, names: dict[str, Any]) -> Iterator[Any]:
    name = instructions[position].argval
    if name.partition(".")[0] not in PROJECT:
        return
    module = importlib.import_module(name)
    for following in instructions[position + 1 :]:
        if following.opname == "IMPORT_FROM":
            yield getattr(module, following.argval)
        elif not following.opname.startswith("STORE"):
            return


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False
