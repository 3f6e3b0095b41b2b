"""Where documents come from: what a recipe can name as a source, and what each has (its stock), found by listing.

Taking stock costs a listing, not a read, because it happens on every run: it decides whether there is anything to do.
"""

import importlib.util
import json
import os
import platform
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from models.settings import Name, Settings
from tasks.core.errors import UserError
from tasks.intake.formats import FORMATS, suffix_of
from tasks.intake.hub import hub_answers
from tasks.intake.installed import installed_distributions
from tasks.intake.inventory import Stock, Unit
from tasks.intake.places import Found, find, is_url, stamp
from tasks.intake.rows import Columns

Location = Annotated[str, Field(min_length=1, max_length=4096)]
"""A path, a glob or a URL."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
PYTHON = "python"
"""The unit that stands for the language and its standard library."""


class PythonDocs(Settings):
    """The documentation of the Python that runs this: language topics, docstrings, licence texts."""

    kind: Literal["python-docs"] = "python-docs"
    packages: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)], ...] | None = None
    """Import names of the packages whose docstrings and licences are read; None: every installed one."""

    @property
    def name(self) -> str:
        """What this source is called in document ids and in results by source: its kind."""
        return self.kind

    def take_stock(self) -> Stock:
        """Python itself and each installed distribution, by name; the mark is its version."""
        for package in self.packages or ():
            if not is_installed(package):
                raise UserError(
                    f"The package {package!r} named in a python-docs source is not installed: "
                    "install it or take it out of `packages`."
                )
        described = [item.metadata for item in installed_distributions(self.packages)]  # parsed anew at each access
        versions = {metadata["Name"]: metadata["Version"] for metadata in described}
        units = [Unit(name=name, mark=version) for name, version in sorted(versions.items())]
        return Stock(source=self.name, units=(Unit(name=PYTHON, mark=platform.python_version()), *units))

    def to_read(self) -> "PythonDocs":
        """Itself without what only says where to look."""
        return self


class Files(Settings):
    """Files, folders and globs, here or behind a URL. Parquet, CSV, JSON lines (plain, gz, zst), Arrow and WARC hold
    a document a row; txt, md and html are one document each."""

    kind: Literal["files"] = "files"
    paths: tuple[Location, ...] = Field(min_length=1)
    """Files, folders (searched to the bottom) or globs; `~` is the home folder. URLs such as s3://bucket/prefix/*.jsonl
    take their credentials from the environment."""
    name: Name
    """What this source is called in document ids and in results by source."""
    columns: Columns = Columns()
    """Which columns of a table, or fields of a JSON line, hold text, id and source."""
    content: Literal["text", "html"] = "text"
    """What the text column holds; of HTML the main text is taken. Files of HTML and WARC are HTML anyway."""

    def take_stock(self) -> Stock:
        """Every file that the paths lead to, by name."""
        found = [file for path in self.paths for file in find(path.removeprefix("file://"), tuple(FORMATS), self.name)]
        return _stock(self.name, found)

    def to_read(self) -> "Files":
        """Itself without what only says where to look: another path must not make old files news."""
        return self.model_copy(update={"paths": ()})


class Datasets(Settings):
    """A Hugging Face dataset: a hub id, a folder that `save_to_disk` wrote, or a folder that `load_dataset` takes. Its
    files are read as they are, in whole columns: no second copy in a cache."""

    kind: Literal["datasets"] = "datasets"
    path: Location
    """Hub id (`owner/name`) or local folder."""
    split: str = Field(default="train", min_length=1, max_length=100)
    """Which part of the dataset."""
    config: str | None = Field(default=None, min_length=1, max_length=100)
    """Which of its configurations, where it has several."""
    name: Name
    """What this source is called in document ids and in results by source."""
    columns: Columns = Columns()
    """Which columns hold text, id and source."""
    content: Literal["text", "html"] = "text"
    """What the text column holds; of HTML the main text is taken."""

    def take_stock(self) -> Stock:
        """The files of the split, by name."""
        try:
            return _stock(self.name, [self._found(path) for path in self._paths()])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._mistake(f"cannot be read ({_first_line(error)}); save it anew or correct `path`") from error

    def _paths(self) -> list[str]:
        folder = Path(os.path.expanduser(self.path))
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
            if self.split not in splits:
                raise self._mistake(f"has no split {self.split!r} but {', '.join(splits)}; correct `split`")
            folder = folder / self.split
        if (folder / "state.json").is_file():
            state = json.loads((folder / "state.json").read_text())
            return [str(folder / file["filename"]) for file in state["_data_files"]]
        if not folder.is_dir():
            self._require_hub()
        return self._files_of_builder()

    def _require_hub(self) -> None:
        """Raise UserError, without waiting for a hub, where this is no folder here and cannot be had from there."""
        if not HUB_ID.fullmatch(self.path):
            raise self._mistake("is no folder here, and no name on the hub (`owner/name`); correct `path`")
        if not hub_answers():
            raise self._mistake(
                "is no folder here, and the hub is out of reach; correct `path`, or connect to the network"
            )

    def to_read(self) -> "Datasets":
        """Itself without what only says where to look."""
        return self.model_copy(update={"path": "", "split": "", "config": None})

    def _files_of_builder(self) -> list[str]:
        import datasets

        try:
            builder = datasets.load_dataset_builder(os.path.expanduser(self.path), self.config)
        except ValueError as error:  # names the configurations that there are
            raise self._mistake(f"cannot be opened ({_first_line(error)}); correct `path` or `config`") from error
        except Exception as error:  # each way of publishing a dataset fails in a way of its own
            raise self._mistake(
                f"is no folder here, nor within reach on the hub ({_first_line(error)}); correct `path`, or log in "
                "and check the network"
            ) from error
        files = builder.config.data_files or {}
        if self.split not in files:
            raise self._mistake(
                f"has no split {self.split!r} but {', '.join(map(str, files)) or 'none'}; correct `split`"
            )
        return list(files[self.split])

    def _found(self, path: str) -> Found:
        relative = path.rpartition("/")[2]
        if is_url(path):  # hf://datasets/owner/name@revision/folder/file
            relative = path.partition("@")[2].partition("/")[2] or relative
        elif (base := Path(os.path.expanduser(self.path)).resolve()) in (absolute := Path(path).resolve()).parents:
            relative, path = absolute.relative_to(base).as_posix(), str(absolute)
        return Found(path, relative, *stamp(path, listed=True))

    def _mistake(self, what: str) -> UserError:
        return UserError(f"Source {self.name!r}: the dataset {self.path} {what}.")


Source = Annotated[PythonDocs | Files | Datasets, Field(discriminator="kind")]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def is_installed(package: str) -> bool:
    """Whether a package can be imported, by its top-level name."""
    try:
        return package.isidentifier() and importlib.util.find_spec(package) is not None
    except ValueError:  # a module that says of itself that it was not imported, such as __main__
        return False


def _stock(source: str, found: list[Found]) -> Stock:
    for file in found:
        if suffix_of(file.path) is None:
            raise UserError(
                f"Source {source!r}: {file.path} is not one of {', '.join(FORMATS)}; convert or exclude it."
            )
    units = sorted(
        (
            Unit(name=f"{source}/{file.relative}", path=file.path, size=file.size, mark=file.mark)
            for file in dict.fromkeys(found)
        ),
        key=lambda unit: unit.name,
    )
    for one, other in pairwise(units):
        if one.name == other.name:
            raise UserError(
                f"{one.path} and {other.path} would both be called {one.name}: "
                "list them in two sources with different `name`s."
            )
    return Stock(source=source, units=tuple(units))
