"""What one Python file defines: each symbol with a hash of its code and the names that it refers to.

A symbol is a name that the module's top level binds: a function, a class with all that is in it, a constant with every
statement that assigns or changes it.
"""

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from tasks.core.errors import StageError
from tasks.core.imports import Import, hidden_importer, imported, loaded_by
from tasks.core.references import Content, References
from tasks.core.syntax import (
    BINDING,
    DEFINITIONS,
    FUNCTIONS,
    IMPORTS,
    bound_by_text,
    chain_of,
    form,
    in_scope,
    parse,
    without_docstrings,
)

MAIN = "__main__"
EFFECTS = "<effects>"
"""Stands for the top-level statements that do something when a module is imported."""
TABLE = "ByName"
"""The type (models/named.py) that makes a dict literal a table of which a request takes the entries that it names."""


class Symbol:
    """One name of a module, or one of its blocks (`__main__`, effects). Its code is read when somebody asks."""

    def __init__(self, package: str) -> None:
        self.entries: dict[str, Symbol] = {}
        """The entries of a table by name (`TABLE: ByName[...] = {...}`); they are no part of the digest."""
        self.registers = False
        """Whether it is a class that hears of its subclasses (`__init_subclass__`)."""
        self._package = package
        self._statements: list[ast.stmt] = []

    def add(self, statement: ast.stmt) -> None:
        """One more statement that binds or changes it."""
        if isinstance(statement, ast.AnnAssign) and (table := _table(statement)) is not None:
            for name, value in table.items():
                self.entries[name] = entry = Symbol(self._package)
                entry.add(ast.Expr(value))
            statement = ast.Assign(targets=[statement.target], value=ast.Dict(keys=[], values=[]))
        if isinstance(statement, ast.ClassDef):
            self.registers = any(keyword.arg == "metaclass" for keyword in statement.keywords) or any(
                isinstance(part, FUNCTIONS) and part.name == "__init_subclass__" for part in statement.body
            )
        self._statements.append(statement)

    @cached_property
    def content(self) -> Content:
        """The digest of the symbol's code and the names that it refers to; worked out once."""
        read = Content()
        uses = References(read, self._package)
        for statement in self._statements:
            uses.visit_statement(statement)
        forms = "\n".join(map(form, self._statements))
        read.digest = hashlib.sha256(forms.encode()).hexdigest()[:16]
        return read


@dataclass
class ModuleSyntax:
    """One file."""

    symbols: dict[str, Symbol] = field(default_factory=dict)
    imports: dict[str, list[Import]] = field(default_factory=dict)
    """What imports at the top level bind; several where one is tried after another."""
    loaded: list[str] = field(default_factory=list)
    """Modules that importing this one imports."""
    decorated: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    """By name of a definition, what decorates it: a decorator may register it."""
    derived: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    """By name of a class, what it derives from: a base may hear of it."""


def read_module(source: bytes, name: str, is_package: bool) -> ModuleSyntax:
    """The symbols of a file. `name` is the module's dotted name.

    Raises StageError for a file that is not valid Python.
    """
    return _Reader(name, is_package).read(parse(source, name))


class _Reader:
    """Sorts a module's top-level statements by the names that they bind."""

    def __init__(self, name: str, is_package: bool) -> None:
        self.name = name
        self.package = name if is_package else name.rpartition(".")[0]
        self.module = ModuleSyntax()

    def read(self, tree: ast.Module) -> ModuleSyntax:
        self._statements(without_docstrings(tree.body))
        return self.module

    def _statements(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, IMPORTS):
                self._import(statement)
            elif isinstance(statement, ast.If) and _is_type_checking(statement.test):
                self._statements(statement.orelse)
            elif isinstance(statement, ast.If) and _is_main(statement.test):
                self._attach(MAIN, statement)
            elif isinstance(statement, DEFINITIONS):
                self._attach(statement.name, statement)
                self._note_definition(statement)
            else:
                self._other(statement)

    def _other(self, statement: ast.stmt) -> None:
        bound = _bound_at_top(statement)
        for inner in in_scope(statement):
            if isinstance(inner, IMPORTS):
                self._import(inner)
            elif isinstance(inner, DEFINITIONS):
                self._note_definition(inner)
        changed = {root for root in _changed_at_top(statement) if root not in self.module.imports}
        for name in bound | changed:
            self._attach(name, statement)
        if _acts(statement, self.module.imports):
            self._attach(EFFECTS, statement)

    def _note_definition(self, definition: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        bases = definition.bases if isinstance(definition, ast.ClassDef) else []
        for table, parts in ((self.module.decorated, definition.decorator_list), (self.module.derived, bases)):
            chains = {chain for part in parts if (chain := chain_of(_called(part)))}
            if chains:
                table.setdefault(definition.name, set()).update(chains)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        if hidden_importer(statement):
            raise StageError(
                f"{self.name}, line {statement.lineno}: `import_module` under another name hides what is imported, so "
                "the code of a stage cannot be told; leave it its name."
            )
        for bound, target in imported(statement, self.package):
            if bound == "*":
                raise StageError(
                    f"{self.name}, line {statement.lineno}: a star import hides which names are used, so the code of a "
                    "stage cannot be told; import the names one by one."
                )
            self.module.imports.setdefault(bound, []).append(target)
        self.module.loaded += loaded_by(statement, self.package)

    def _attach(self, name: str, statement: ast.stmt) -> None:
        self.module.symbols.setdefault(name, Symbol(self.package)).add(statement)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _is_main(test: ast.expr) -> bool:
    return (
        isinstance(test, ast.Compare)
        and any(isinstance(part, ast.Name) and part.id == "__name__" for part in (test.left, *test.comparators))
        and any(isinstance(part, ast.Constant) and part.value == MAIN for part in (test.left, *test.comparators))
    )


def _called(node: ast.expr) -> ast.expr:
    """`f` of `f(...)`, and of `f`."""
    while isinstance(node, ast.Call):
        node = node.func
    return node


def _bound_at_top(statement: ast.stmt) -> set[str]:
    """Names that the statement binds at the top level, wherever in it, but by imports."""
    bound: set[str] = set()
    for node in (statement, *in_scope(statement)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, BINDING):
            bound.add(node.id)
        elif isinstance(node, DEFINITIONS):
            bound.add(node.name)
        elif isinstance(node, IMPORTS) and node is not statement:
            bound.update(name for name, _ in imported(node, ""))  # which of them it is, the whole statement decides
        else:
            bound.update(bound_by_text(node))
    return bound


def _changed_at_top(statement: ast.stmt) -> set[str]:
    """Names whose items or attributes the statement sets: `TABLE["a"] = f`, `Class.limit = 3`."""
    changed = set()
    for node in (statement, *in_scope(statement)):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, BINDING):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name):
                changed.add(root.id)
    return changed


def _acts(statement: ast.stmt, imports: dict[str, list[Import]]) -> bool:
    """Whether executing the statement may do more than bind names of the module and change what they hold."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Delete):
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            return statement.target.id in imports  # a list of another module's grows
        return any(root in imports for root in _changed_at_top(statement))
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Pass, ast.Global, *DEFINITIONS)):
        return False
    if isinstance(statement, ast.If | ast.Try | ast.TryStar):
        blocks = [statement.body, statement.orelse, *([] if isinstance(statement, ast.If) else [statement.finalbody])]
        blocks += [handler.body for handler in getattr(statement, "handlers", ())]
        return any(_acts(inner, imports) for block in blocks for inner in without_docstrings(block))
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return False
    return type(statement).__name__ != "TypeAlias"


def _table(statement: ast.AnnAssign) -> dict[str, ast.expr] | None:
    """The entries of a table by name; None for any other statement."""
    kind = statement.annotation.value if isinstance(statement.annotation, ast.Subscript) else statement.annotation
    chain = chain_of(kind)
    if chain is None or chain[-1] != TABLE or not isinstance(statement.value, ast.Dict):
        return None
    entries: dict[str, ast.expr] = {}
    for key, value in zip(statement.value.keys, statement.value.values, strict=True):
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            raise StageError(
                f"the table in line {statement.lineno} has a key that is no string literal, so nobody could tell which "
                "entry a request takes; write the names out."
            )
        entries[key.value] = value
    return entries
