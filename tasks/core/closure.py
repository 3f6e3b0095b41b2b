"""The closure: every symbol of the project that a function can reach, by reading files and importing none.

From the function on, each name is looked up where Python would look it up: in its module, through imports and
re-exports, attribute by attribute through modules. A class is taken whole, with its bases; a module that is used as a
value (`getattr(module, name)`) with all that is in it. Of a table by name (models/named.py) the entries count that a
request names, so that one that joins it concerns nobody else. A string `module:symbol` leads to that symbol. A symbol
that mentions its own `__file__` may start it as a process: the file's `__main__` block counts.

Importing a module runs its top level: of every module on the way the statements count that do more than bind names,
and the definitions that a decorator of the project's own or of a library, or a base class that hears of its
subclasses, registers.

What cannot be followed (`eval`, `import_module` of a computed name, `__subclasses__`) is refused with the line.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from tasks.core.carriers import CARRIERS, SILENT_LIBRARIES
from tasks.core.errors import StageError
from tasks.core.imports import Import
from tasks.core.symbols import EFFECTS, MAIN, ModuleSyntax, Symbol

LOAD = ("models.named", "load")
"""What imports the symbol that a string names."""
ONLY_WRAP = frozenset(("njit", "inference_mode"))
"""Decorators of libraries that hand nothing to anybody: numba's, torch's."""

Modules = Callable[[str], ModuleSyntax | None]
"""The syntax of a module by its dotted name; None for what is no file of the project."""
Chain = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A symbol (or, without a name, all) of a module, or a library from elsewhere (whose `name` is None too)."""

    module: str
    name: str | None = None
    library: bool = False


@dataclass
class Closure:
    """What a function consists of."""

    symbols: dict[str, str] = field(default_factory=dict)
    """Dotted name to hash of its code."""
    libraries: set[str] = field(default_factory=set)
    """Import names of what comes from elsewhere and may show in an artifact."""
    modules: set[str] = field(default_factory=set)
    """Modules of the project that were looked at."""
    offered: set[str] = field(default_factory=set)
    """All names of the tables that were met."""


class Code:
    """A project's source as it stands; looks up names and remembers where they lead."""

    def __init__(self, modules: Modules, packages: Collection[str]) -> None:
        """Read nothing yet: modules are read when a name leads to them.

        Args:
            packages: top-level names that are the project's own.
        """
        self._modules = modules
        self._packages = frozenset(packages)
        self._known: dict[str, ModuleSyntax | None] = {}
        self._found: dict[tuple[str, Chain], frozenset[Place]] = {}

    def module(self, name: str) -> ModuleSyntax | None:
        """The syntax of a module of the project; None for a foreign name or one that is no module."""
        if name not in self._known:
            own = name.partition(".")[0] in self._packages
            self._known[name] = self._modules(name) if own else None
        return self._known[name]

    def closure(self, entries: Iterable[str], names: Collection[str] | None = None) -> Closure:
        """What these entries, each `module:symbol` or a module that is run, consist of.

        Args:
            names: what a request names: which entries of tables count; None: all of them.

        Raises:
            StageError: something is reached that cannot be followed.
        """
        return _Walk(self, names).walk(entries)

    def look_up(self, module: str, chain: Chain) -> frozenset[Place]:
        """Where a dotted name that a module's top level knows leads; nowhere for a builtin."""
        key = (module, chain)
        if key not in self._found:
            self._found[key] = frozenset()  # a circle of imports leads nowhere new
            self._found[key] = frozenset(self._look_up(module, chain))
        return self._found[key]

    def imported(self, target: Import, chain: Chain) -> Iterator[Place]:
        """Where an import and the attributes taken of it lead."""
        yield from self.inside(target.module, (target.symbol, *chain) if target.symbol else chain)

    def inside(self, module: str, chain: Chain) -> Iterator[Place]:
        """Where the attributes of a module lead."""
        if module.partition(".")[0] not in self._packages:
            yield Place(module.partition(".")[0], library=True)
            return
        syntax = self.module(module)
        if not chain:
            yield Place(module)
        elif syntax is not None and (chain[0] in syntax.symbols or chain[0] in syntax.imports):
            yield from self.look_up(module, chain)
        elif self.is_module(f"{module}.{chain[0]}"):
            yield from self.inside(f"{module}.{chain[0]}", chain[1:])
        elif syntax is not None and "__getattr__" in syntax.symbols:
            yield Place(module, "__getattr__")

    def is_module(self, name: str) -> bool:
        """Whether the dotted name is that of one of the project's modules."""
        return self.module(name) is not None

    def hears_of_subclasses(self, module: str, name: str) -> bool:
        """Whether a class, or one that it derives from, is told of classes that derive from it."""
        syntax = self.module(module)
        if syntax is None or name not in syntax.symbols:
            return False
        return syntax.symbols[name].registers or any(
            place.name is not None
            and (place.module, place.name) != (module, name)
            and self.hears_of_subclasses(place.module, place.name)
            for chain in syntax.derived.get(name, ())
            for place in self.look_up(module, chain)
            if not place.library
        )

    def _look_up(self, module: str, chain: Chain) -> Iterator[Place]:
        syntax = self.module(module)
        if syntax is None:
            return
        if chain[0] in syntax.symbols:
            yield Place(module, chain[0])
        for target in syntax.imports.get(chain[0], ()):
            if target == Import(module, chain[0]):  # a package that imports a part of itself
                yield from self.inside(f"{module}.{chain[0]}", chain[1:])
            else:
                yield from self.imported(target, chain[1:])
        if chain[0] == "__file__" and MAIN in syntax.symbols:
            yield Place(module, MAIN)


class _Walk:
    """One closure in the making."""

    def __init__(self, code: Code, names: Collection[str] | None) -> None:
        self.code = code
        self.names = names
        self.found = Closure()
        self._waiting: list[Place] = []
        self._seen: set[Place] = set()

    def walk(self, entries: Iterable[str]) -> Closure:
        for entry in entries:
            module, _, name = entry.partition(":")
            self._reach(Place(module, name or None))
            if name:
                symbol = self._symbol(module, name)
                if symbol is None:
                    raise StageError(
                        f"there is no {entry} in the project, so its code cannot be told; correct the name."
                    )
                self._reach_all(
                    place for chain in symbol.content.annotations for place in self.code.look_up(module, chain)
                )
        while self._waiting:
            self._take(self._waiting.pop())
        self.found.symbols = dict(sorted(self.found.symbols.items()))
        return self.found

    def _reach(self, place: Place) -> None:
        if place not in self._seen:
            self._seen.add(place)
            self._waiting.append(place)

    def _reach_all(self, places: Iterable[Place]) -> None:
        for place in places:
            self._reach(place)

    def _take(self, place: Place) -> None:
        if place.library:
            if place.module not in SILENT_LIBRARIES and place.module not in sys.stdlib_module_names:
                self.found.libraries.add(place.module)
        elif not carries(place.module, place.name):
            self._pass(place.module)
            if place.name is None:
                self._take_whole(place.module)
            else:
                self._take_symbol(place.module, place.name)

    def _take_whole(self, module: str) -> None:
        syntax = self.code.module(module)
        if syntax is not None:
            self._reach_all(Place(module, name) for name in syntax.symbols)
            self._reach_all(place for name in syntax.imports for place in self.code.look_up(module, (name,)))

    def _take_symbol(self, module: str, name: str) -> None:
        symbol = self._symbol(module, name)
        if symbol is None:
            return
        self._take_code(module, name, symbol)
        self.found.offered.update(symbol.entries)
        for entry, part in symbol.entries.items():
            if self.names is None or entry in self.names:
                self._take_entry(module, f"{name}[{entry}]", part)

    def _take_entry(self, module: str, name: str, entry: Symbol) -> None:
        if f"{module}.{name}" not in self.found.symbols:
            self._take_code(module, name, entry)

    def _take_code(self, module: str, name: str, symbol: Symbol) -> None:
        content = symbol.content
        if content.refused:
            raise StageError(
                f"{module}.{name} cannot be followed ({content.refused}), so the code of a stage cannot be told; name "
                "what it may reach in a table of `module:symbol` strings."
            )
        if any(Place(*LOAD) in self._places(module, *called) for called in content.built):
            raise StageError(
                f"{module}.{name} loads by a text that it puts together, so the code of a stage cannot be told; take "
                "it from a table."
            )
        self.found.symbols[f"{module}.{name}"] = content.digest
        for target, chain in [*((None, chain) for chain in content.uses), *content.imports]:
            places = self._places(module, target, chain)
            self._reach_all(places)
            if chain and chain[-1] in ("values", "items"):
                self._take_entries(self._places(module, target, chain[:-1]), None)
        for target, chain, key in content.picked:
            self._take_entries(self._places(module, target, chain), key)
        for loaded in content.loads:
            self._pass(loaded)
        for text in content.named:
            self._follow_text(text)

    def _places(self, module: str, target: Import | None, chain: Chain) -> Collection[Place]:
        """Where a name leads: one that code imports by itself, or one of its module's."""
        if target is not None:
            return frozenset(self.code.imported(target, chain))
        return self.code.look_up(module, chain) if chain else frozenset()

    def _take_entries(self, tables: Iterable[Place], key: str | None) -> None:
        """Those that code takes of tables whatever the request names: one, or all."""
        for place in tables:
            table = self._symbol(place.module, place.name) if place.name else None
            if table and not carries(place.module, place.name):
                for entry, part in table.entries.items():
                    if key is None or entry == key:
                        self._take_entry(place.module, f"{place.name}[{entry}]", part)

    def _follow_text(self, text: str) -> None:
        """A string that names a symbol or a module of the project leads there."""
        module, _, name = text.partition(":")
        if not name and not self.code.is_module(module):
            module, _, name = text.rpartition(".")
        if self.code.is_module(module) and "." in module:
            self._reach_all(self.code.inside(module, (name,) if name else ()))

    def _pass(self, module: str) -> None:
        """Importing a module runs its top level, that of its packages, and that of what it imports."""
        waiting = [module]
        while waiting:
            name = waiting.pop()
            if name in self.found.modules or carries(name):
                continue
            syntax = self.code.module(name)
            if syntax is None:
                continue
            self.found.modules.add(name)
            if EFFECTS in syntax.symbols:
                self._reach(Place(name, EFFECTS))
            self._reach_all(Place(name, defined) for defined in self._registered(name, syntax))
            waiting += syntax.loaded
            parent = name.rpartition(".")[0]
            if parent:
                waiting.append(parent)

    def _registered(self, module: str, syntax: ModuleSyntax) -> Iterator[str]:
        """Definitions that the import hands to somebody who may call them later."""
        for name, chains in syntax.decorated.items():
            if any(self._may_register(place, chain) for chain in chains for place in self.code.look_up(module, chain)):
                yield name
        for name, chains in syntax.derived.items():
            places = [place for chain in chains for place in self.code.look_up(module, chain) if self._is_own(place)]
            if any(place.name and self.code.hears_of_subclasses(place.module, place.name) for place in places):
                yield name

    def _may_register(self, place: Place, chain: Chain) -> bool:
        """Whether a decorator may hand on what it decorates: the project's own, and those of libraries but Python's."""
        if place.library and chain[-1] not in ONLY_WRAP:
            return place.module == "atexit" or place.module not in sys.stdlib_module_names
        return self._is_own(place)

    def _is_own(self, place: Place) -> bool:
        return not place.library and not carries(place.module, place.name)

    def _symbol(self, module: str, name: str) -> Symbol | None:
        syntax = self.code.module(module)
        return syntax.symbols.get(name) if syntax else None


def carries(module: str, name: str | None = None) -> bool:
    """Whether a module, or a symbol of it, is a carrier."""
    parts = module.split(".")
    above = (".".join(parts[: count + 1]) for count in range(len(parts)))
    return any(prefix in CARRIERS for prefix in above) or (name is not None and f"{module}.{name}" in CARRIERS)
