"""Which files a source has: found by path, folder or glob, named independently of the machine, and stamped.

A listing costs a look at each file's entry, not a read, because it happens on every run: it enters the key of the
stage that reads the files and so decides whether there is anything to do.
"""

import os
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from itertools import pairwise, takewhile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import StageError, UserError


class ListedFile(BaseModel):
    """A file as it was when it was listed."""

    model_config = ConfigDict(frozen=True)
    name: str
    """The source's name and the path below what was listed, with forward slashes."""
    path: str = Field(exclude=True)
    """Left out of keys and manifests: the same file elsewhere is the same file."""
    size: int
    mtime_ns: int

    def check_unchanged(self) -> None:
        """Raises StageError if the file is not what was listed any more."""
        state = os.stat(self.path)
        if (state.st_size, state.st_mtime_ns) != (self.size, self.mtime_ns):
            raise StageError(f"{self.path} changed while it was being read; run again when it is complete.")


def list_files(source: str, paths: Iterable[str], formats: tuple[str, ...]) -> tuple[ListedFile, ...]:
    """The files of a source by name; folders are searched to the bottom for files of these formats (suffixes).

    Raises UserError for a path that matches nothing, a file of another format, and two files of one name.
    """
    found = sorted({file for path in paths for file in _matches(source, path, formats)}, key=lambda file: file.name)
    for one, other in pairwise(found):
        if one.name == other.name:
            raise UserError(
                f"{one.path} and {other.path} would both be called {one.name}: "
                "list them in two sources with different `name`s."
            )
    return tuple(found)


def _matches(source: str, pattern: str, formats: tuple[str, ...]) -> Iterator[ListedFile]:
    path = Path(os.path.expanduser(pattern))
    if path.is_dir():
        root = path
        found = [match for match in path.rglob("*") if match.suffix.lower() in formats and match.is_file()]
        missing = f"no file in {pattern} ends in one of {', '.join(formats)}"
    elif has_magic(str(path)) and not path.exists():
        root = Path(*takewhile(lambda part: not has_magic(part), path.parts))
        found = [match for match in map(Path, glob(str(path), recursive=True)) if match.is_file()]
        missing = f"no file matches {pattern}"
    else:
        root = path.parent
        found = [path] if path.is_file() else []
        missing = f"there is no file {pattern}"
    if not found:
        raise UserError(f"Source {source!r}: {missing}; correct its `paths`.")
    for match in found:
        if match.suffix.lower() not in formats:
            raise UserError(f"Source {source!r}: {match} is not one of {', '.join(formats)}; convert or exclude it.")
        state = match.stat()
        name = f"{source}/{match.relative_to(root).as_posix()}"
        yield ListedFile(name=name, path=str(match.resolve()), size=state.st_size, mtime_ns=state.st_mtime_ns)
