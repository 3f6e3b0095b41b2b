"""The texts that models are judged by: where they lie, what they held when the run began, and how they are read.

Their content, not their place or time, decides whether anything runs again: a set that was downloaded anew is the
same set, one that was corrected in place is not. Hashing costs 0.4 s a gigabyte.
"""

import gzip
import json
import os
from pathlib import Path
from typing import Annotated

import polars as pl
from blake3 import blake3
from pydantic import Field

from models.settings import NotInKey, Settings
from tasks.core.errors import StageError, UserError
from tasks.intake.walk import fixed_part, in_kernel_folder, is_whole_machine, matches

FORMATS = (".parquet", ".jsonl", ".jsonl.gz", ".csv", ".txt")


class EvaluationSet(Settings):
    """One set of texts that no model may have learnt from."""

    path: NotInKey[str] = Field(min_length=1, max_length=4096)
    """A file or a glob of files: parquet, jsonl (also .gz), csv (with a header), or txt (a text a line). What is found
    there enters the key."""
    columns: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(default=("text",), min_length=1)
    """Columns or fields that hold text or lists of texts (a question, its answers); each text is compared by itself.
    Of no effect on txt."""


class EvaluationFile(Settings):
    """A file of a set as it was when stock was taken."""

    name: str
    path: NotInKey[str]
    """Left out of keys and manifests: the same content elsewhere is the same file."""
    size: int
    blake3: str


class EvaluationInventory(Settings):
    """The files of every set; part of the key of whatever compares with them."""

    sets: dict[str, tuple[EvaluationFile, ...]]


def take_stock(sets: dict[str, EvaluationSet]) -> EvaluationInventory:
    """Find and hash the files of each set.

    Raises UserError for a path or glob that matches no file, and for a file of another format.
    """
    return EvaluationInventory(
        sets={
            name: tuple(
                EvaluationFile(name=path.name, path=str(path.resolve()), size=path.stat().st_size, blake3=_hash(path))
                for path in files_of(name, chosen)
            )
            for name, chosen in sets.items()
        }
    )


def read_texts(chosen: EvaluationSet, file: EvaluationFile) -> pl.DataFrame:
    """The texts of one file: row (int64, in the file, from 0) and text; rows without a text are left out.

    Raises:
        UserError: the file cannot be read, or has no such column of text.
        StageError: it is no longer the file that stock was taken of.
    """
    path = Path(file.path)
    try:
        if _hash(path) != file.blake3:
            raise StageError(f"The evaluation file {path} changed after the run had begun: run again.")
        frame = _read(path, chosen.columns)
    except (OSError, UnicodeDecodeError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The evaluation file {path} cannot be read ({reason}): mend it or its `columns`.") from error
    frame = frame.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    parts = []
    for column in frame.columns[1:]:
        kind = frame.schema[column]
        part = frame.select("row", text=column)
        if isinstance(kind, pl.List):
            part = part.explode("text", empty_as_null=True)
        if part.schema["text"] not in (pl.String, pl.Null):
            raise UserError(f"The column {column!r} of the evaluation file {path} holds {kind}: name columns of text.")
        parts.append(part.with_columns(pl.col("text").cast(pl.String)))
    return pl.concat(parts).drop_nulls().sort("row", maintain_order=True)


def _read(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """The chosen columns, in the order of `columns`."""
    if path.suffix == ".txt":
        return pl.DataFrame({"text": path.read_text(encoding="utf-8-sig").split("\n")}, schema={"text": pl.String})
    if path.suffix == ".parquet":
        return pl.read_parquet(path, columns=list(columns))
    if path.suffix == ".csv":
        return pl.read_csv(path, columns=list(columns), infer_schema=False).select(columns)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    for number, row in enumerate(rows):
        if missing := [column for column in columns if not isinstance(row, dict) or column not in row]:
            raise ValueError(f"row {number} has no field {missing[0]!r}")
    return pl.DataFrame({column: [row[column] for row in rows] for column in columns}, strict=True)


def files_of(name: str, chosen: EvaluationSet) -> list[Path]:
    """The files of a set.

    Raises UserError for a path or glob that matches no file, and for a file of another format.
    """
    pattern = Path(os.path.expanduser(chosen.path))
    try:
        found = [] if in_kernel_folder(pattern) or is_whole_machine(pattern) else sorted(matches(*fixed_part(pattern)))
        if not found and pattern.is_file() and not in_kernel_folder(pattern):  # a name that only looks like a glob
            found = [pattern]
    except (OSError, ValueError):  # a name that is too long, or holds what no name can
        found = []
    if not found:
        raise UserError(f"No file of the evaluation set {name!r} is at {chosen.path}: correct its `path`.")
    for path in found:
        if not path.name.endswith(FORMATS):
            raise UserError(
                f"{path} of the evaluation set {name!r} is not one of {', '.join(FORMATS)}: convert or exclude it."
            )
    return found


def _hash(path: Path) -> str:
    return blake3().update_mmap(path).hexdigest()
