"""What one Python file defines: each symbol with a hash of its code and the names that it refers to.

A symbol is a name that the module's top level binds: a function, a class with all that is in it, a constant with every
statement that assigns or changes it. The hash is taken of a form of the syntax tree of our own, in which comments,
docstrings and layout do not stand, and which is the same on every Python that can parse the file (`ast.dump` is not:
it names the fields that a release happens to have).

Names are looked up by Python's rules: what a function, a lambda or a comprehension binds hides what the module binds.
Annotations are followed where they act at run time: in class bodies (pydantic, dataclasses), of decorated functions
(validators), and of a stage's own function; elsewhere they are hashed and not followed.
"""

import ast
import hashlib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tasks.core.errors import StageError

MAIN = "__main__"
EFFECTS = "<effects>"
"""Stands for the top-level statements that do something when a module is imported."""
UNFOLLOWABLE = ("eval", "exec", "__import__", "globals")
ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""How a string names a symbol: `package.module:symbol`."""
TABLE = "ByName"
"""The type (models/named.py) that makes a dict literal a table of which a request takes the entries that it names."""
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""How a command or `import_module` names a module."""

_IGNORED_FIELDS = frozenset(("ctx", "kind", "type_comment", "type_ignores", "docstring"))
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Tuples, not unions: a union is made anew each time that a node is looked at.
_NAMES = (ast.Attribute, ast.Name)
_IMPORTS = (ast.Import, ast.ImportFrom)
_BINDING = (ast.Store, ast.Del)
_ELSEWHERE = (ast.Global, ast.Nonlocal)
_NAMING = (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_DOCUMENTED = (ast.Module, *_DEFINITIONS)
_CLOSED = (*_DEFINITIONS, ast.Lambda)
_PLAIN_DECORATORS = (("classmethod",), ("staticmethod",), ("property",))
"""They look at no annotation."""
_ATTEMPTS = 3
_parsing = threading.Lock()


@dataclass(frozen=True)
class Import:
    """What a name stands for that an import binds: a module, or a symbol of one."""

    module: str
    symbol: str | None = None


@dataclass
class Content:
    """What a symbol's code says."""

    digest: str = ""
    uses: set[tuple[str, ...]] = field(default_factory=set)
    """Dotted names that the code loads from the module's top level, such as ("np", "random", "default_rng")."""
    annotations: set[tuple[str, ...]] = field(default_factory=set)
    """Those of a function's signature: followed where the function is a stage's."""
    imports: set[tuple[Import, tuple[str, ...]]] = field(default_factory=set)
    """What the code uses of what it imports by itself, and the attributes that it takes of it."""
    loads: set[str] = field(default_factory=set)
    """Modules that it imports by itself."""
    picked: set[tuple[tuple[str, ...], str]] = field(default_factory=set)
    """Items that it takes of a table by a literal name, `TABLE["name"]`."""
    named: set[str] = field(default_factory=set)
    """Strings that may name a symbol (`module:symbol`) or a module (`package.module`)."""
    refused: str = ""
    """Why nobody can say what the code refers to."""


class Symbol:
    """One name of a module, or one of its blocks (`__main__`, effects). Its code is read when somebody asks."""

    def __init__(self, package: str) -> None:
        self.entries: dict[str, Symbol] = {}
        """Of a table by name (`TABLE: ByName[...] = {...}`); they are no part of the digest."""
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
                isinstance(part, _FUNCTIONS) and part.name == "__init_subclass__" for part in statement.body
            )
        self._statements.append(statement)

    @cached_property
    def content(self) -> Content:
        read = Content()
        uses = _Uses(read, self._package)
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


def read_module(source: bytes, name: str, is_package: bool) -> ModuleSyntax:
    """The symbols of a file. `name` is the module's dotted name.

    Raises StageError for a file that is not valid Python.
    """
    return _Reader(name, is_package).read(parse(source, name))


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
            if isinstance(statement, _IMPORTS):
                self._import(statement)
            elif isinstance(statement, ast.If) and _is_type_checking(statement.test):
                self._statements(statement.orelse)
            elif isinstance(statement, ast.If) and _is_main(statement.test):
                self._attach(MAIN, statement)
            elif isinstance(statement, _DEFINITIONS):
                self._attach(statement.name, statement)
                self._note_definition(statement)
            else:
                self._other(statement)

    def _other(self, statement: ast.stmt) -> None:
        bound = _bound_at_top(statement)
        for inner in _in_scope(statement):
            if isinstance(inner, _IMPORTS):
                self._import(inner)
            elif isinstance(inner, _DEFINITIONS):
                self._note_definition(inner)
        changed = {root for root in _changed_at_top(statement) if root not in self.module.imports}
        for name in bound | changed:
            self._attach(name, statement)
        if _acts(statement, self.module.imports):
            self._attach(EFFECTS, statement)

    def _note_definition(self, definition: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        bases = definition.bases if isinstance(definition, ast.ClassDef) else []
        for table, parts in ((self.module.decorated, definition.decorator_list), (self.module.derived, bases)):
            chains = {chain for part in parts if (chain := _chain(_called(part)))}
            if chains:
                table.setdefault(definition.name, set()).update(chains)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for bound, target in _imported(statement, self.package):
            if bound == "*":
                raise StageError(
                    f"{self.name}, line {statement.lineno}: a star import hides which names are used, so the code of a "
                    "stage cannot be told; import the names one by one."
                )
            self.module.imports.setdefault(bound, []).append(target)
        self.module.loaded += _loaded(statement, self.package)

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


def _imported(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Import]]:
    """(bound name, what it stands for) of each name of an import."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.asname:
                yield alias.asname, Import(alias.name)
            else:
                yield alias.name.partition(".")[0], Import(alias.name.partition(".")[0])
        return
    origin = statement.module or ""
    if statement.level:
        above = package.split(".")[: len(package.split(".")) - statement.level + 1]
        origin = ".".join([*above, *([origin] if origin else [])])
    for alias in statement.names:
        yield alias.asname or alias.name, Import(origin, alias.name)


def _chain(node: ast.expr) -> tuple[str, ...] | None:
    """("a", "b", "c") for `a.b.c`; None for what does not begin with a name."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return (node.id, *reversed(attributes)) if isinstance(node, ast.Name) else None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _called(node: ast.expr) -> ast.expr:
    """`f` of `f(...)`, and of `f`."""
    while isinstance(node, ast.Call):
        node = node.func
    return node


def _loaded(statement: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """Modules that an import imports, and what may be one: `from tasks import ingest` names a module."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    targets = [target for _, target in _imported(statement, package)]
    return [targets[0].module, *(f"{target.module}.{target.symbol}" for target in targets)]


def _names_of(target: ast.AST) -> set[str]:
    """Names that a target of an assignment binds."""
    nodes = ast.walk(target)
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, _BINDING)}


def _in_scope(node: ast.AST) -> list[ast.AST]:
    """The nodes below that run in the same scope: inner definitions are given, their insides are not; of comprehensions
    only what `:=` binds."""
    found: list[ast.AST] = []
    waiting = [] if isinstance(node, _CLOSED) else [node]
    while waiting:
        for child in _children(waiting.pop()):
            if isinstance(child, _COMPREHENSIONS):
                found += [inner.target for inner in ast.walk(child) if isinstance(inner, ast.NamedExpr)]
            else:
                found.append(child)
                if not isinstance(child, _CLOSED):
                    waiting.append(child)
    return found


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for name in node._fields:
        inner = getattr(node, name, None)
        if isinstance(inner, list):
            yield from (part for part in inner if isinstance(part, ast.AST))
        elif name != "ctx" and isinstance(inner, ast.AST):
            yield inner


def _bound_at_top(statement: ast.stmt) -> set[str]:
    """Names that the statement binds at the top level, wherever in it, but by imports."""
    bound: set[str] = set()
    for node in (statement, *_in_scope(statement)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, _BINDING):
            bound.add(node.id)
        elif isinstance(node, _DEFINITIONS):
            bound.add(node.name)
        elif isinstance(node, _IMPORTS) and node is not statement:
            bound.update(name for name, _ in _imported(node, ""))  # which of them it is, the whole statement decides
        else:
            bound.update(_bound_by_text(node))
    return bound


def _bound_by_text(node: ast.AST) -> Iterator[str]:
    """Names that stand in the tree as plain strings."""
    if isinstance(node, _NAMING) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest


def _changed_at_top(statement: ast.stmt) -> set[str]:
    """Names whose items or attributes the statement sets: `TABLE["a"] = f`, `Class.limit = 3`."""
    changed = set()
    for node in (statement, *_in_scope(statement)):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, _BINDING):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name):
                changed.add(root.id)
    return changed


def _acts(statement: ast.stmt, imports: dict[str, list[Import]]) -> bool:
    """Whether executing the statement may do more than bind names of the module and change what they hold."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Delete):
        return any(root in imports for root in _changed_at_top(statement))
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Pass, ast.Global, *_DEFINITIONS)):
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
    chain = _chain(kind)
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


class _Uses:
    """Collects what a statement refers to, with Python's scopes."""

    def __init__(self, content: Content, package: str) -> None:
        self.content = content
        self.package = package
        self._scopes: list[frozenset[str]] = []
        self._aliases: list[dict[str, Import]] = []

    def visit_statement(self, statement: ast.stmt) -> None:
        """A statement of the module's top level."""
        self._visit(statement)

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, _NAMES):
            self._visit_name(node)
        elif isinstance(node, _FUNCTIONS):
            self._visit_function(node)
        elif isinstance(node, ast.Lambda):
            self._visit_arguments(node.args, annotated=False)
            self._enter(_parameters(node.args) | _locals([node.body], self.package)[0], {}, [node.body])
        elif isinstance(node, ast.ClassDef):
            self._visit_class(node)
        elif isinstance(node, _COMPREHENSIONS):
            self._visit_comprehension(node)
        elif isinstance(node, ast.AnnAssign):  # only a class's are followed, see _visit_class
            self._visit_all((node.target, *([node.value] if node.value else [])))
        elif isinstance(node, _IMPORTS):
            self._visit_import(node)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and (MODULE.fullmatch(node.value) or ENTRY.fullmatch(node.value)):
                self.content.named.add(node.value)
        else:
            if isinstance(node, ast.Call):
                self._visit_call(node)
            elif isinstance(node, ast.Subscript) and (chain := _chain(node.value)) and _is_text(node.slice):
                self.content.picked.add((chain, node.slice.value))  # type: ignore[attr-defined]
            self._visit_all(_children(node))

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self._visit(node)

    def _visit_name(self, node: ast.Attribute | ast.Name) -> None:
        chain = _chain(node)
        if chain is None:
            assert isinstance(node, ast.Attribute)
            self._visit(node.value)
            return
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            return
        root = chain[0]
        for scope, aliases in zip(reversed(self._scopes), reversed(self._aliases), strict=True):
            if root in aliases:
                self.content.imports.add((aliases[root], chain[1:]))
                return
            if root in scope:
                return
        if root in UNFOLLOWABLE:
            self.content.refused = f"`{root}` in line {node.lineno}"
        self.content.uses.add(chain)

    def _visit_call(self, node: ast.Call) -> None:
        """A module whose name is computed could be any."""
        called = _chain(node.func)
        if called and called[-1] == "import_module" and node.args and not isinstance(node.args[0], ast.Constant):
            self.content.refused = f"`import_module` of a computed name in line {node.lineno}"

    def _visit_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if not self._scopes:  # of the top level: the module's own table of imports has it
            return
        self.content.loads.update(_loaded(node, self.package))

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all(node.decorator_list)
        acting = any(_chain(part) not in _PLAIN_DECORATORS for part in node.decorator_list)
        self._visit_arguments(node.args, annotated=acting)
        if not self._scopes:
            collected = _Uses(Content(), self.package)
            collected._annotations(node)
            self.content.annotations |= collected.content.uses
        if acting and node.returns:
            self._visit_annotation(node.returns)
        body = without_docstrings(node.body)
        bound, aliases = _locals(body, self.package)
        self._enter(_parameters(node.args) | bound, aliases, body)

    def _annotations(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for argument in _arguments(node.args):
            if argument.annotation:
                self._visit_annotation(argument.annotation)

    def _visit_arguments(self, arguments: ast.arguments, annotated: bool) -> None:
        self._visit_all(default for default in (*arguments.defaults, *arguments.kw_defaults) if default is not None)
        if annotated:
            for argument in _arguments(arguments):
                if argument.annotation:
                    self._visit_annotation(argument.annotation)

    def _visit_annotation(self, annotation: ast.expr) -> None:
        """An annotation that is evaluated; written as a string, it is one all the same."""
        for node in ast.walk(annotation):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                try:
                    self._visit_annotation(parse(f"({node.value})".encode(), "annotation").body[0].value)  # type: ignore[attr-defined]
                except StageError:
                    continue  # a word of a Literal
        self._visit(annotation)

    def _visit_class(self, node: ast.ClassDef) -> None:
        self._visit_all((*node.decorator_list, *node.bases, *node.keywords))
        for statement in without_docstrings(node.body):
            if isinstance(statement, ast.AnnAssign):
                self._visit_annotation(statement.annotation)
            self._visit(statement)

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self._visit(node.generators[0].iter)  # evaluated outside
        bound = frozenset(name for generator in node.generators for name in _names_of(generator.target))
        parts: list[ast.AST] = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for number, generator in enumerate(node.generators):
            parts += [generator.target, *generator.ifs, *([generator.iter] if number else [])]
        self._enter(bound, {}, parts)

    def _enter(self, bound: Iterable[str], aliases: dict[str, Import], parts: Iterable[ast.AST]) -> None:
        self._scopes.append(frozenset(bound))
        self._aliases.append(aliases)
        self._visit_all(parts)
        self._scopes.pop()
        self._aliases.pop()


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


def _parameters(arguments: ast.arguments) -> frozenset[str]:
    return frozenset(argument.arg for argument in _arguments(arguments))


def _locals(body: Sequence[ast.AST], package: str) -> tuple[frozenset[str], dict[str, Import]]:
    """The names that are local to a function with this body, and what those stand for that it imports."""
    bound: set[str] = set()
    free: set[str] = set()
    aliases: dict[str, Import] = {}
    for node in [node for statement in body for node in (statement, *_in_scope(statement))]:
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                bound.add(node.id)
        elif isinstance(node, _DEFINITIONS):
            bound.add(node.name)
        elif isinstance(node, _IMPORTS):
            aliases.update(_imported(node, package))
        elif isinstance(node, _ELSEWHERE):
            free.update(node.names)
        else:
            bound.update(_bound_by_text(node))
    return frozenset(bound - free), aliases
