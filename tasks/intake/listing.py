"""Which files a source has: found by path, folder or glob, named independently of the machine, and stamped.

A listing costs a look at each file's entry, not a read, because it happens on every run: it enters the key of the
stage that reads the files and so decides whether there is anything to do.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import pairwise

from models.settings import NotInKey, Settings
from tasks.core.errors import StageError, UserError
from tasks.intake.places import find, is_url


class ListedFile(Settings):
    """A file as it was when it was listed."""

    name: str
    """The source's name and the path below what was listed, with forward slashes."""
    path: NotInKey[str]
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
    found = sorted({file for path in paths for file in _listed(source, path, formats)}, key=lambda file: file.name)
    for one, other in pairwise(found):
        if one.name == other.name:
            raise UserError(
                f"{one.path} and {other.path} would both be called {one.name}: "
                "list them in two sources with different `name`s."
            )
    return tuple(found)


def _listed(source: str, path: str, formats: tuple[str, ...]) -> Iterator[ListedFile]:
    if is_url(path):
        raise UserError(f"Source {source!r}: {path} is a URL, from which only text is read; copy its files here.")
    for match in find(path, formats, source):
        if not match.path.lower().endswith(formats):
            raise UserError(
                f"Source {source!r}: {match.path} is not one of {', '.join(formats)}; convert or exclude it."
            )
        yield ListedFile(name=f"{source}/{match.relative}", path=match.path, size=match.size, mtime_ns=int(match.mark))
