"""Files wherever they are: on a disk, or behind a URL that fsspec understands (s3://, gs://, https://, memory://).

Local files take no detour through fsspec, which costs 0.1 s to import. Credentials never stand in a
recipe: each fsspec implementation takes them from its usual place (for s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_ENDPOINT_URL, ~/.aws).
"""

import io
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from glob import has_magic
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from tasks.core.errors import StageError, UserError
from tasks.intake.walk import fixed_part, in_kernel_folder, is_whole_machine, matches

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Which extra of ours brings the package for a kind of URL; for others that package is named."""
READ_AHEAD = 8_000_000  # bytes of a remote file fetched by one request
MARKS = ("ETag", "etag", "generation", "md5Hash", "blob_id", "mtime", "LastModified", "last_modified", "created")


def _not_empty(path: Any) -> Any:
    if path == "":
        raise ValueError("an empty path would be the current folder; write a path")
    return path


LocalPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(lambda path: Path(os.path.expanduser(path)))]
"""A path of this machine in a recipe; `~` is the home folder."""


@dataclass(frozen=True)
class Found:
    """A file and what tells whether it is still the same."""

    path: str
    relative: str
    """Its path below the fixed part of what was asked for."""
    size: int
    mark: str


def is_url(path: str) -> bool:
    """Whether a path is for fsspec to open, not for the operating system."""
    return "://" in path


def find(pattern: str, suffixes: Sequence[str], source: str) -> list[Found]:
    """The files that a path, a folder (searched to the bottom for these suffixes) or a glob leads to.

    Raises:
        UserError: there are none, or the URL's kind needs a package that is not installed.
        StageError: the place cannot be reached.
    """
    try:
        found, missing = _find_remote(pattern, suffixes) if is_url(pattern) else _find_local(pattern, suffixes)
    except (OSError, ValueError) as error:  # a name that is too long, or holds what no name can
        raise UserError(
            f"Source {source!r}: {pattern} cannot be looked for ({getattr(error, 'strerror', None) or error}); correct "
            "its `paths`."
        ) from error
    if not found:
        raise UserError(f"Source {source!r}: {missing}; correct its `paths`.")
    return found


def stamp(path: str, listed: bool = False) -> tuple[int, str]:
    """Size and mark of a file as it is now, or as it was when its folder was last `listed`.

    Raises OSError if it is not there.
    """
    if is_url(path):
        system, inner = _system(path)
        if not listed:
            system.invalidate_cache()
        return _stamp(system.info(inner))
    state = os.stat(path)
    return state.st_size, str(state.st_mtime_ns)


def open_file(path: str) -> IO[bytes]:
    """A file opened to be read, at any position.

    Raises, here or when it is read:
        OSError: it is not there, or not for us.
        StageError: the network or the service failed: no fault of the file's.
    """
    if not is_url(path):
        return open(path, "rb")
    return io.BufferedReader(_RemoteFile(path), READ_AHEAD)


def read_file(path: str) -> bytes:
    """The whole content of a file here or behind a URL.

    Raises OSError if it is not there or not for us, StageError if the network or the service failed.
    """
    with closing(open_file(path)) as stream:
        return stream.read()


def _find_local(pattern: str, suffixes: Sequence[str]) -> tuple[list[Found], str]:
    path = Path(os.path.expanduser(pattern))
    root, files = path, list[Path]()
    if in_kernel_folder(path):
        missing = f"{pattern} lies where the kernel shows itself, and no documents do"
    elif is_whole_machine(path):
        missing = f"{pattern} would search the whole machine, so nobody looked; name the folder to search"
    elif has_magic(str(path)) and not path.exists():
        root, parts = fixed_part(path)
        files = matches(root, parts)
        missing = f"no file matches {pattern}"
    elif path.is_dir():
        root = path
        files = [file for file in matches(path, ["**"], hidden=True) if file.name.lower().endswith(tuple(suffixes))]
        missing = f"no file in {pattern} ends in one of {', '.join(suffixes)}"
    else:
        root = path.parent
        files = [path] if path.is_file() else []
        missing = f"there is no file {pattern}"
    found = []
    for file in files:
        state = file.stat()
        relative = file.relative_to(root).as_posix()
        found.append(Found(str(file.resolve()), relative, state.st_size, str(state.st_mtime_ns)))
    return found, missing


def _find_remote(pattern: str, suffixes: Sequence[str]) -> tuple[list[Found], str]:
    system, inner = _system(pattern)
    system.invalidate_cache()
    try:
        if has_magic(inner):
            root = "/".join(takewhile(lambda part: not has_magic(part), inner.split("/")))
            matches = system.glob(inner, detail=True)
            missing = f"no file matches {pattern}"
        elif system.isdir(inner):
            root = inner
            below = system.find(inner, detail=True)
            matches = {name: info for name, info in below.items() if name.lower().endswith(tuple(suffixes))}
            missing = f"no file in {pattern} ends in one of {', '.join(suffixes)}"
        else:
            root = inner.rpartition("/")[0]
            matches = {inner: system.info(inner)}
            missing = f"there is no file {pattern}"
    except FileNotFoundError:
        matches, missing = {}, f"there is no file {pattern}"
    except Exception as error:  # each service has its own kinds: no connection, no credentials, no such bucket
        raise StageError(
            f"{pattern} cannot be listed ({str(error) or type(error).__name__}); check the address, the network and "
            "the credentials in the environment, then run again."
        ) from error
    files = {name: info for name, info in matches.items() if info["type"] == "file"}
    found = []
    for name, info in files.items():
        relative = name[len(root) :].lstrip("/") if root else name
        found.append(Found(str(system.unstrip_protocol(name)), str(PurePosixPath(relative)), *_stamp(info)))
    return found, missing


class _RemoteFile(io.RawIOBase):
    """Tells a file that is missing or forbidden, which is a reject, from a service that fails, which must not be."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._file: Any = None
        self._file = self._done(lambda: _opened(url))

    def readinto(self, buffer: Any) -> int:
        return self._done(lambda: self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._done(lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _done(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            raise StageError(
                f"{self._url} cannot be read ({str(error) or type(error).__name__}); run again when its server answers."
            ) from error


def _opened(url: str) -> Any:
    system, inner = _system(url)
    return system.open(inner, "rb", block_size=READ_AHEAD, cache_type="readahead")


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    protocol = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        if protocol in EXTRAS:
            hint = f"install it with `uv sync --extra {EXTRAS[protocol]}`"
        else:
            hint = f"{str(error).rstrip('.')}, with `uv add`"  # fsspec says "Install gcsfs to access Google Storage"
        raise UserError(f"{url} needs a package that is not installed: {hint}, then run again.") from error
    except ValueError as error:
        raise UserError(f"{url} begins with {protocol}://, which fsspec does not know; correct the address.") from error


def _stamp(info: dict[str, Any]) -> tuple[int, str]:
    mark = next((info[key] for key in MARKS if info.get(key) is not None), "")
    return int(info.get("size") or 0), str(mark).strip('"')
