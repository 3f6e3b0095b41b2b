"""Which Python modules and licence texts are installed here, found by listing, without importing anything.

Order is by name, never by folder listing, and names leave out versions: the same environment gives the same
documents on any machine, and an upgrade keeps the ids of what it did not change.
"""

import os
import re
import sysconfig
from collections.abc import Container, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from tasks.intake.docstrings import SourceFile

PROJECT = "nightschool"

TEST_FOLDERS = {"test", "tests", "testing", "idle_test"}
FOREIGN_FOLDERS = {"site-packages", "dist-packages"}
LICENCE = re.compile(r"(licen[cs]es?|copying|copyright|notice)([._-].*)?", re.IGNORECASE)
CODE_SUFFIXES = {".py", ".pyc", ".pyi", ".h", ".hpp", ".so"}


def standard_library() -> list[SourceFile]:
    """Modules of the standard library without their tests, a folder before its subfolders."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - FOREIGN_FOLDERS - TEST_FOLDERS)
        for name in sorted(names):
            path = Path(folder, name)
            if module := _module_name(path.relative_to(root)):
                found.append(SourceFile(str(path), module))
    return found


def installed(
    packages: tuple[str, ...] | None, names: Container[str]
) -> tuple[list[SourceFile], list[tuple[str, Path]]]:
    """Modules by name, and licences (name, path) by name, of the installed distributions called `names`.

    Args:
        packages: the import names of those whose modules are wanted; None for all.
    """
    modules: set[SourceFile] = set()  # two distributions may list one file
    licences: set[tuple[str, Path]] = set()
    for distribution in installed_distributions(packages):
        if distribution.name in names:
            files = list(_files(distribution))
            own = {SourceFile(str(path), module) for relative, path in files if (module := _module_name(relative))}
            modules |= {file for file in own if packages is None or file.module.partition(".")[0] in packages}
            licences |= {(name, path) for relative, path in files if (name := _licence(distribution, relative))}
    return sorted(modules, key=lambda file: (file.module, file.path)), sorted(licences)


def installed_distributions(packages: tuple[str, ...] | None = None) -> Iterator[Distribution]:
    """Everything installed, or what brings modules of one of these packages; but not this project itself, nor folders
    that an interrupted installation left behind."""
    for item in distributions():
        if item.metadata["Name"] not in (None, PROJECT) and (packages is None or _brings(item, packages)):
            yield item


def _brings(distribution: Distribution, packages: tuple[str, ...]) -> bool:
    record = distribution.read_text("RECORD")  # to make paths of all that is installed takes seconds: first its text
    names = "|".join(map(re.escape, packages))
    if record is not None and not re.search(rf'^"?({names})[/.]', record, re.MULTILINE):
        return False
    modules = (_module_name(relative) for relative, _ in _files(distribution))
    return any(module is not None and module.partition(".")[0] in packages for module in modules)


def _files(distribution: Distribution) -> Iterator[tuple[Path, Path]]:
    """(relative, absolute) path of each file; those outside the package folder (scripts) are left out."""
    root = Path(str(distribution.locate_file("")))
    for entry in distribution.files or ():
        if ".." not in entry.parts:
            relative = Path(*entry.parts)
            yield relative, root / relative


def _module_name(relative: Path) -> str | None:
    """Dotted name of a Python file, or None if it is none, a test, or cannot be imported by a name."""
    parts = relative.with_suffix("").parts
    if relative.suffix != ".py" or not all(part.isidentifier() for part in parts):
        return None
    if TEST_FOLDERS.intersection(parts[:-1]) or parts[-1].startswith("test_") or parts[-1] == "conftest":
        return None
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _licence(distribution: Distribution, relative: Path) -> str | None:
    """The name of a licence text, without the distribution's version: an upgrade keeps document ids."""
    if not LICENCE.fullmatch(relative.name) or relative.suffix.lower() in CODE_SUFFIXES:
        return None
    parts = [part for part in relative.parts if not part.endswith(".dist-info") and part != "licenses"]
    return f"{distribution.name}/{'/'.join(parts)}"
