"""Reads who dealt with what, and when, as a table of events: logs with a row an event, or lines of item ids."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
from pydantic import Field, model_validator

from models.settings import Name, NotInKey, Settings
from tasks.intake.listing import ListedFile

DATES = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f")

EVENTS = pl.Schema({"user": pl.String, "item": pl.String, "time": pl.Float64})
REFUSED = pl.Schema({"row": pl.Int64, "reason": pl.String})

Read = tuple[pl.DataFrame, pl.DataFrame]
"""Events in the order of the file (`time` in the source's own unit, or seconds since 1970 where it gave dates; null
where it has none), and rows that are none (`row` from 0, null for the whole file)."""


class EventTable(Settings):
    """CSV files with a header and a row for each event."""

    kind: Literal["csv"] = "csv"
    paths: NotInKey[tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...]] = Field(min_length=1)
    """Files, folders (searched to the bottom for .csv) or globs. What is found there enters the key."""
    name: Name
    """What this source is called in document ids and in results by source."""
    user: str = Field(default="user", min_length=1, max_length=200)
    """The column that says who."""
    item: str = Field(default="item", min_length=1, max_length=200)
    """The column that says what."""
    time: str | None = Field(default="time", min_length=1, max_length=200)
    """The column that says when: numbers or ISO 8601 dates; None: the rows stand in the order of time."""

    @model_validator(mode="after")
    def _columns_differ(self) -> "EventTable":
        if len({self.user, self.item, self.time}) < 3:
            raise ValueError("user, item and time are three columns; name a different one for each")
        return self


class ItemLines(Settings):
    """Text files with a line `user item item ...` for each user, in the order of time."""

    kind: Literal["lines"] = "lines"
    paths: NotInKey[tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...]] = Field(min_length=1)
    """Files, folders (searched to the bottom for .txt) or globs. What is found there enters the key."""
    name: Name
    """What this source is called in document ids and in results by source."""


EventSource = Annotated[EventTable | ItemLines, Field(discriminator="kind")]
FORMATS = {"csv": (".csv",), "lines": (".txt",)}


def read_events(source: EventTable | ItemLines, file: ListedFile) -> Read:
    """The events of a file, and what of it had to be refused.

    Raises StageError if the file is not what was listed any more.
    """
    try:
        events, refused = _read_table(source, file) if isinstance(source, EventTable) else _read_lines(file)
    except (OSError, ValueError, pa.ArrowException) as error:  # bad UTF-8 among them
        reason = str(error).splitlines()[0].replace(file.path, file.name)
        return pl.DataFrame(schema=EVENTS), pl.DataFrame({"row": [None], "reason": [reason]}, REFUSED)
    file.check_unchanged()
    return events, refused


def _read_table(source: EventTable, file: ListedFile) -> Read:
    columns = {"user": source.user, "item": source.item} | ({"time": source.time} if source.time else {})
    ragged: list[tuple[int, str]] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append((row.number - 2, f"{row.actual_columns} fields instead of {row.expected_columns}"))
        return "skip"

    table = pyarrow.csv.read_csv(
        file.path,
        read_options=pyarrow.csv.ReadOptions(use_threads=False),  # only so are rows numbered
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns.values(), pa.string()),
            include_columns=list(columns.values()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    numbers = np.delete(np.arange(table.num_rows + len(ragged)), [row for row, _ in ragged])
    frame = pl.DataFrame(
        {name: pl.Series(table[column], dtype=pl.String) for name, column in columns.items()} | {"row": numbers}
    )
    faults = [pl.when(pl.col(name).is_null()).then(pl.lit(f"no {column}")) for name, column in columns.items()]
    time = pl.lit(None, pl.Float64)
    if source.time:
        time = _seconds(pl.col("time"))
        timeless = time.is_finite().not_().fill_null(True)
        faults.append(pl.when(timeless).then(pl.format("{} is neither a number nor an ISO 8601 date", "time")))
    frame = frame.with_columns(reason=pl.coalesce(faults))
    good = frame.filter(pl.col("reason").is_null()).select("user", "item", time=time)
    bad = frame.filter(pl.col("reason").is_not_null()).select(REFUSED.names())
    return good, pl.concat([bad, pl.DataFrame(ragged, REFUSED, orient="row")]).sort("row")


def _read_lines(file: ListedFile) -> Read:
    text = Path(file.path).read_text(encoding="utf-8-sig")
    lines = pl.DataFrame({"line": text.split("\n")}, {"line": pl.String}).with_row_index("row")
    words = lines.select(pl.col("row").cast(pl.Int64), pl.col("line").str.extract_all(r"\S+").alias("words"))
    words = words.filter(pl.col("words").list.len() > 0)
    alone = pl.col("words").list.len() == 1
    events = words.filter(~alone).select(user=pl.col("words").list.first(), item=pl.col("words").list.slice(1))
    events = events.explode("item").with_columns(time=pl.lit(None, pl.Float64))
    return events, words.filter(alone).select("row", reason=pl.lit("a user without items"))


def _seconds(time: pl.Expr) -> pl.Expr:
    """Numbers as they are, dates (in UTC where they do not say) as seconds since 1970, anything else as null."""
    date = time.str.strip_suffix("Z")
    dates = [date.str.to_datetime(form, time_unit="us", strict=False) for form in DATES]
    dates.append(date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")))
    return pl.coalesce(time.cast(pl.Float64, strict=False), *(moment.dt.epoch("us") / 1e6 for moment in dates))
