"""Where documents come from: each kind of source says what it has (cheaply) and then reads it in a fixed order.

Taking stock costs a listing, not a read, because it happens on every run: it enters the key of ingest and so decides
whether there is anything to do. What cannot be read becomes a `Reject` and does not stop the others.
"""

import importlib.util
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from glob import glob, has_magic
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import StageError, UserError
from tasks.docstrings import extract_files
from tasks.installed import installed, installed_distributions, standard_library

FORMATS = (".parquet", ".jsonl", ".txt", ".md")


@dataclass(frozen=True)
class Document:
    doc_id: str
    text: str
    source: str


@dataclass(frozen=True)
class Reject:
    """What could not become a document: `path` as in document ids, `row` in that file or None for all of it."""

    path: str
    row: int | None
    reason: str


Report = Callable[[int, int], None]
"""Told how many of how many files are read."""


class FileStamp(BaseModel):
    """A file as it was when stock was taken; `name` is how the ids of its documents begin."""

    model_config = ConfigDict(frozen=True)
    name: str
    path: str
    size: int
    mtime_ns: int


class Stock(BaseModel):
    """What one source has to offer."""

    model_config = ConfigDict(frozen=True)
    files: tuple[FileStamp, ...] = ()
    versions: dict[str, str] = {}
    """Version of Python and of each installed distribution, for a source that reads those."""


class PythonDocs(BaseModel):
    """The documentation of the Python that runs this: language topics, docstrings, licence texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["python-docs"] = "python-docs"
    packages: tuple[str, ...] | None = None
    """Import names of the packages whose docstrings and licences are read; None: every installed one."""

    def take_stock(self) -> Stock:
        for package in self.packages or ():
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"The package {package!r} named in a python-docs source is not installed: "
                    "install it or take it out of `packages`."
                )
        versions = {item.name: item.version for item in installed_distributions()}
        return Stock(versions={"python": platform.python_version()} | dict(sorted(versions.items())))

    def read(self, stock: Stock, report: Report) -> Iterator[Document | Reject]:
        """Topics, the standard library's docstrings, the packages' by name, then licence texts."""
        taken: Counter[str] = Counter()
        for item in self._read(report):
            if isinstance(item, Document):
                taken[item.doc_id] += 1
                if taken[item.doc_id] > 1:  # defined twice, under a condition or by a module and its package
                    item = replace(item, doc_id=f"{item.doc_id}#{taken[item.doc_id]}")
            yield item

    def _read(self, report: Report) -> Iterator[Document | Reject]:
        from pydoc_data.topics import topics

        for topic, text in sorted(topics.items()):
            yield Document(f"topics/{topic}", text.strip(), "topics")
        modules, licences = installed(self.packages)
        standard = standard_library()
        files = [*standard, *modules]
        for done, (file, extracted) in enumerate(zip(files, extract_files(files), strict=True)):
            report(done, len(files))
            source = "python" if done < len(standard) else file.module.partition(".")[0]
            if extracted.error:
                yield Reject(f"{source}/{file.module}", None, extracted.error)
            for name, text in extracted.documents:
                yield Document(f"{source}/{name}", text, source)
        for name, path in licences:
            yield from _read_text(path, f"licences/{name}", "licences")


class Files(BaseModel):
    """Files, folders and globs: parquet and jsonl hold a document a row; txt and md are one document each."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, folders (searched to the bottom) or globs; `~` is the home folder."""
    name: str = Field(pattern=r"^[\w.-]+$")
    """What this source is called in document ids and in results by source."""
    text_column: str = "text"
    """The column of a parquet file, or field of a jsonl line, that holds the text."""

    def take_stock(self) -> Stock:
        stamps = sorted((stamp for path in self.paths for stamp in _stamps(path, self.name)), key=lambda s: s.name)
        for one, other in pairwise(stamps):
            if one.name == other.name and one.path != other.path:
                raise UserError(
                    f"{one.path} and {other.path} would both be called {one.name}: "
                    "list them in two sources with different `name`s."
                )
        return Stock(files=tuple(dict.fromkeys(stamps)))

    def read(self, stock: Stock, report: Report) -> Iterator[Document | Reject]:
        """Every file of the stock, by name."""
        for done, stamp in enumerate(stock.files):
            report(done, len(stock.files))
            path = Path(stamp.path)
            try:
                if path.suffix == ".parquet":
                    yield from self._read_parquet(path, stamp.name)
                elif path.suffix == ".jsonl":
                    yield from self._read_jsonl(path, stamp.name)
                else:
                    yield from _read_text(path, stamp.name, self.name)
                state = path.stat()
            except (OSError, pa.ArrowException) as error:
                yield Reject(stamp.name, None, _reason(error))
                continue
            if (state.st_size, state.st_mtime_ns) != (stamp.size, stamp.mtime_ns):
                raise StageError(f"{path} changed while it was being read; run again when it is complete.")

    def _read_parquet(self, path: Path, name: str) -> Iterator[Document | Reject]:
        with pq.ParquetFile(path, memory_map=True) as file:
            columns = file.schema_arrow.names
            if self.text_column not in columns:
                yield Reject(name, None, f"no column {self.text_column!r} among {', '.join(columns)}")
                return
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[self.text_column]):
                for text in batch.column(0).to_pylist():
                    yield _row(name, row, text, self)
                    row += 1

    def _read_jsonl(self, path: Path, name: str) -> Iterator[Document | Reject]:
        with path.open("rb") as stream:
            for row, line in enumerate(stream):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError as error:
                    yield Reject(name, row, f"not JSON: {error}")
                    continue
                if not isinstance(value, dict) or self.text_column not in value:
                    yield Reject(name, row, f"no field {self.text_column!r}")
                else:
                    yield _row(name, row, value[self.text_column], self)


Source = Annotated[PythonDocs | Files, Field(discriminator="kind")]


def _row(name: str, row: int, text: object, source: Files) -> Document | Reject:
    if not isinstance(text, str):
        return Reject(name, row, f"{source.text_column!r} holds no text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        return Reject(name, row, "the text holds half of a surrogate pair")
    return Document(f"{name}#{row}", text, source.name)


def _read_text(path: Path, name: str, source: str) -> Iterator[Document | Reject]:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        yield Reject(name, None, _reason(error))
    else:
        yield Document(name, text, source)


def _reason(error: Exception) -> str:
    """What went wrong, without the path: that is named beside it, and a machine's folders stay out of artifacts."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _stamps(pattern: str, source: str) -> Iterator[FileStamp]:
    path = Path(os.path.expanduser(pattern))
    if has_magic(str(path)):
        root = Path(*takewhile(lambda part: not has_magic(part), path.parts))
        found = [Path(match) for match in glob(str(path), recursive=True)]
        found = [match for match in found if match.is_file()]
        missing = f"no file matches {pattern}"
    elif path.is_dir():
        root = path
        found = [match for match in path.rglob("*") if match.is_file() and match.suffix in FORMATS]
        missing = f"no file in {pattern} ends in one of {', '.join(FORMATS)}"
    else:
        root = path.parent
        found = [path] if path.is_file() else []
        missing = f"there is no file {pattern}"
    if not found:
        raise UserError(f"Source {source!r}: {missing}; correct its `paths`.")
    for match in found:
        if match.suffix not in FORMATS:
            raise UserError(f"Source {source!r}: {match} is not one of {', '.join(FORMATS)}; convert or exclude it.")
        state = match.stat()
        name = f"{source}/{match.relative_to(root).as_posix()}"
        yield FileStamp(name=name, path=str(match.resolve()), size=state.st_size, mtime_ns=state.st_mtime_ns)
