"""What an import statement binds and loads, told without executing it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

BY_NAME = "import_module"
"""The function of importlib that imports what a string names."""


@dataclass(frozen=True)
class Import:
    """What a name stands for that an import binds: a module, or a symbol of one."""

    module: str
    symbol: str | None = None


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


def hidden_importer(statement: ast.Import | ast.ImportFrom) -> bool:
    """Whether it gives `import_module` another name, by which nobody would know it."""
    return (
        isinstance(statement, ast.ImportFrom)
        and statement.module == "importlib"
        and any(alias.name == BY_NAME and alias.asname not in (None, BY_NAME) for alias in statement.names)
    )


def loaded_by(statement: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """Modules that an import imports, and what may be one: `from tasks import ingest` names a module."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    targets = [target for _, target in imported(statement, package)]
    return [targets[0].module, *(f"{target.module}.{target.symbol}" for target in targets)]
