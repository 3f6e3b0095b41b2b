"""What a piece of code refers to: the names, imports and strings by which it reaches other code.

Names are looked up by Python's rules: what a function, a lambda or a comprehension binds hides what the module binds.
Annotations are followed where they act at run time: in class bodies (pydantic, dataclasses), of decorated functions
(validators), and of a stage's own function; elsewhere they are hashed and not followed.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tasks.core.errors import StageError
from tasks.core.syntax import (
    COMPREHENSIONS,
    DEFINITIONS,
    FUNCTIONS,
    IMPORTS,
    NAMES,
    bound_by_text,
    chain_of,
    children,
    in_scope,
    is_text,
    names_of,
    parse,
    without_docstrings,
)

UNFOLLOWABLE = ("eval", "exec", "__import__", "globals")
ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""How a string names a symbol: `package.module:symbol`."""
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""How a command or `import_module` names a module."""
_ELSEWHERE = (ast.Global, ast.Nonlocal)
_PLAIN_DECORATORS = (("classmethod",), ("staticmethod",), ("property",))
"""They look at no annotation."""


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


def imported(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Import]]:
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


def loaded_by(statement: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """Modules that an import imports, and what may be one: `from tasks import ingest` names a module."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    targets = [target for _, target in imported(statement, package)]
    return [targets[0].module, *(f"{target.module}.{target.symbol}" for target in targets)]


class References:
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
        if isinstance(node, NAMES):
            self._visit_name(node)
        elif isinstance(node, FUNCTIONS):
            self._visit_function(node)
        elif isinstance(node, ast.Lambda):
            self._visit_arguments(node.args, annotated=False)
            self._enter(_parameters(node.args) | _locals([node.body], self.package)[0], {}, [node.body])
        elif isinstance(node, ast.ClassDef):
            self._visit_class(node)
        elif isinstance(node, COMPREHENSIONS):
            self._visit_comprehension(node)
        elif isinstance(node, ast.AnnAssign):  # only a class's are followed, see _visit_class
            self._visit_all((node.target, *([node.value] if node.value else [])))
        elif isinstance(node, IMPORTS):
            self._visit_import(node)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and (MODULE.fullmatch(node.value) or ENTRY.fullmatch(node.value)):
                self.content.named.add(node.value)
        else:
            if isinstance(node, ast.Call):
                self._visit_call(node)
            elif isinstance(node, ast.Subscript) and (chain := chain_of(node.value)) and is_text(node.slice):
                self.content.picked.add((chain, node.slice.value))  # type: ignore[attr-defined]
            self._visit_all(children(node))

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self._visit(node)

    def _visit_name(self, node: ast.Attribute | ast.Name) -> None:
        chain = chain_of(node)
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
        called = chain_of(node.func)
        if called and called[-1] == "import_module" and node.args and not isinstance(node.args[0], ast.Constant):
            self.content.refused = f"`import_module` of a computed name in line {node.lineno}"

    def _visit_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if not self._scopes:  # of the top level: the module's own table of imports has it
            return
        self.content.loads.update(loaded_by(node, self.package))

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all(node.decorator_list)
        acting = any(chain_of(part) not in _PLAIN_DECORATORS for part in node.decorator_list)
        self._visit_arguments(node.args, annotated=acting)
        if not self._scopes:
            collected = References(Content(), self.package)
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
        bound = frozenset(name for generator in node.generators for name in names_of(generator.target))
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
    for node in [node for statement in body for node in (statement, *in_scope(statement))]:
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                bound.add(node.id)
        elif isinstance(node, DEFINITIONS):
            bound.add(node.name)
        elif isinstance(node, IMPORTS):
            aliases.update(imported(node, package))
        elif isinstance(node, _ELSEWHERE):
            free.update(node.names)
        else:
            bound.update(bound_by_text(node))
    return frozenset(bound - free), aliases
