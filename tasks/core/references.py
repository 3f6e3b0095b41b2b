"""What a piece of code refers to: the names, imports and strings by which it reaches other code.

Names are looked up by Python's rules: what a function, a lambda or a comprehension binds hides what the module binds.
Annotations are followed where they act at run time: in class bodies (pydantic, dataclasses), of decorated functions
(validators), and of a stage's own function; elsewhere they are hashed and not followed.
"""

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tasks.core.errors import StageError
from tasks.core.imports import BY_NAME, Import, hidden_importer, imported, loaded_by
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
_BUILTINS = ("builtins", "__builtins__")
_LOADED = ("sys", "modules")
_OPEN = (_LOADED, ("runpy", "run_module"), ("runpy", "run_path"), ("pkgutil", "resolve_name"))
"""They may lead anywhere."""
_OF_ALL = "__subclasses__"
ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""How a string names a symbol: `package.module:symbol`."""
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""How a command or `import_module` names a module, and others a symbol of one."""
_FILE = re.compile(r"([A-Za-z_]\w*)\.py")
"""How a command names a file beside its own."""
_ELSEWHERE = (ast.Global, ast.Nonlocal)
_PLAIN_DECORATORS = (("classmethod",), ("staticmethod",), ("property",))
"""They look at no annotation."""


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
    picked: set[tuple[Import | None, tuple[str, ...], str]] = field(default_factory=set)
    """Items that it takes of a table by a literal name, `TABLE["name"]`: the table is a name of the module's top level,
    or of what the code imports by itself."""
    built: set[tuple[Import | None, tuple[str, ...]]] = field(default_factory=set)
    """What it calls with a text that it puts together, named like `picked`."""
    named: set[str] = field(default_factory=set)
    """Strings that may name a symbol (`module:symbol`, `module.symbol`) or a module."""
    refused: str = ""
    """Why nobody can say what the code refers to."""


class References:
    """Collects what a statement refers to, with Python's scopes."""

    def __init__(self, content: Content, package: str) -> None:
        self.content = content
        self.package = package
        self._scopes: list[frozenset[str]] = []
        self._aliases: list[dict[str, list[Import]]] = []

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
            if isinstance(node.value, str):
                self._visit_text(node.value)
        elif isinstance(node, ast.Call):
            self._visit_call(node)
        elif isinstance(node, ast.Subscript) and is_text(node.slice):
            self._visit_item(node, node.slice.value)  # type: ignore[attr-defined]
        elif isinstance(node, ast.Compare) and _asks_whether_loaded(node):
            self._visit(node.left)
        else:
            self._visit_all(children(node))

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self._visit(node)

    def _visit_text(self, text: str) -> None:
        if file := _FILE.fullmatch(text):
            self.content.named.add(f"{self.package}.{file[1]}")
        elif MODULE.fullmatch(text) or ENTRY.fullmatch(text):
            self.content.named.add(text)

    def _visit_name(self, node: ast.Attribute | ast.Name) -> None:
        chain = chain_of(node)
        if isinstance(node, ast.Attribute) and _OF_ALL in (node.attr, *(chain or ())):
            self.content.refused = f"`{_OF_ALL}` in line {node.lineno}"
        if chain is None:
            assert isinstance(node, ast.Attribute)
            self._visit(node.value)
            return
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            return
        if chain[-1] == BY_NAME:
            self.content.refused = f"`{BY_NAME}` of a computed name in line {node.lineno}"
        elif chain[:2] in _OPEN or (chain[0] in _BUILTINS and chain[-1] in UNFOLLOWABLE):
            self.content.refused = f"`{'.'.join(chain)}` in line {node.lineno}"
        self._refer(chain, node.lineno)

    def _refer(self, chain: tuple[str, ...], line: int) -> None:
        targets = self._targets(chain)
        if targets is None:
            if chain[0] in UNFOLLOWABLE:
                self.content.refused = f"`{chain[0]}` in line {line}"
            self.content.uses.add(chain)
        else:
            self.content.imports.update((target, chain[1:]) for target in targets)

    def _targets(self, chain: tuple[str, ...]) -> Sequence[Import] | None:
        """The imports of the function that a name stands for, none for a variable of its own; None: the name is one of
        the module's top level, or a builtin."""
        for scope, aliases in zip(reversed(self._scopes), reversed(self._aliases), strict=True):
            if chain[0] in aliases:
                return aliases[chain[0]]
            if chain[0] in scope:
                return ()
        return None

    def _visit_call(self, node: ast.Call) -> None:
        called = chain_of(node.func)
        first = node.args[0] if node.args else None
        if called and called[-1] == BY_NAME and isinstance(first, ast.Constant) and _is_absolute(first.value):
            self._refer(called, node.lineno)
            self._take_module(str(first.value))
            self._visit_all((*node.args, *node.keywords))
            return
        if called and isinstance(first, ast.JoinedStr | ast.BinOp):
            self.content.built.update((target, called[1:]) for target in self._targets(called) or ())
            if self._targets(called) is None:
                self.content.built.add((None, called))
        if called and called[1:] and called[-1] == "get" and first and is_text(first):
            self._pick(called[:-1], first.value)  # type: ignore[attr-defined]
        self._visit_all(children(node))

    def _visit_item(self, node: ast.Subscript, name: str) -> None:
        """An item by a literal name: of a table, or of the modules that are loaded."""
        chain = chain_of(node.value)
        if chain == _LOADED:
            self._take_module(name)
            return
        if chain:
            self._pick(chain, name)
        self._visit_all(children(node))

    def _pick(self, chain: tuple[str, ...], name: str) -> None:
        targets = self._targets(chain)
        if targets is None:
            self.content.picked.add((None, chain, name))
        else:
            self.content.picked.update((target, chain[1:], name) for target in targets)

    def _take_module(self, name: str) -> None:
        """All that is in a module."""
        self.content.loads.add(name)
        self.content.imports.add((Import(name), ()))

    def _visit_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if not self._scopes:  # of the top level: the module's own table of imports has it
            return
        if hidden_importer(node):
            self.content.refused = f"`{BY_NAME}` under another name in line {node.lineno}"
        self.content.loads.update(loaded_by(node, self.package))

    def _take_import(self, node: ast.Import | ast.ImportFrom) -> None:
        """All that an import imports, where its names are not those of a function: an attribute of a class may be used
        by anybody who has the class."""
        self.content.loads.update(loaded_by(node, self.package))
        if isinstance(node, ast.Import):
            self.content.imports.update((Import(alias.name), ()) for alias in node.names)
        else:
            self.content.imports.update((target, ()) for _, target in imported(node, self.package))

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
        bound, aliases, shared = _locals(body, self.package)
        for name in shared & aliases.keys():  # an import that binds a name outside of this function
            self.content.imports.update((target, ()) for target in aliases.pop(name))
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
            for inner in (statement, *in_scope(statement)):
                if isinstance(inner, IMPORTS):
                    self._take_import(inner)
            self._visit(statement)

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self._visit(node.generators[0].iter)  # evaluated outside
        bound = frozenset(name for generator in node.generators for name in names_of(generator.target))
        parts: list[ast.AST] = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for number, generator in enumerate(node.generators):
            parts += [generator.target, *generator.ifs, *([generator.iter] if number else [])]
        self._enter(bound, {}, parts)

    def _enter(self, bound: Iterable[str], aliases: dict[str, list[Import]], parts: Iterable[ast.AST]) -> None:
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


def _is_absolute(name: object) -> bool:
    return isinstance(name, str) and not name.startswith(".")


def _asks_whether_loaded(node: ast.Compare) -> bool:
    """`name in sys.modules`, which takes nothing of them."""
    return [chain_of(part) for part in node.comparators] == [_LOADED] and isinstance(node.ops[0], ast.In | ast.NotIn)


def _locals(body: Sequence[ast.AST], package: str) -> tuple[frozenset[str], dict[str, list[Import]], frozenset[str]]:
    """The names that are local to a function with this body; what those stand for that it imports (several where one
    is tried after another); the names that it says are bound outside of it."""
    bound: set[str] = set()
    free: set[str] = set()
    aliases: dict[str, list[Import]] = {}
    for node in [node for statement in body for node in (statement, *in_scope(statement))]:
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                bound.add(node.id)
        elif isinstance(node, DEFINITIONS):
            bound.add(node.name)
        elif isinstance(node, IMPORTS):
            for name, target in imported(node, package):
                aliases.setdefault(name, []).append(target)
        elif isinstance(node, _ELSEWHERE):
            free.update(node.names)
        else:
            bound.update(bound_by_text(node))
    return frozenset(bound - free), aliases, frozenset(free)
