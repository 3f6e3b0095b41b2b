"""Turns logs of who dealt with what into Arrow shards that training reads like text: a history is a document, an item
a token.

Users and items with few events are left out until none is left (the 5-core that recommenders are compared on: Kang and
McAuley 2018, arXiv 1808.09781, section IV.A); the rest of a user's events stand in the order of time, those of one
moment in the order of the files. Everything is columns: 0.4 million events a second of one core, and 150 to 180 bytes
of memory for each event, since a history may be spread over all files.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.settings import Settings
from tasks.core.artifact import Artifact
from tasks.core.batches import Batches, Facts
from tasks.core.errors import UserError
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.documents import VERDICTS, write_rows
from tasks.corpus.heldout import is_heldout
from tasks.intake.events import FORMATS, EventSource, EventTable, ItemLines, read_events
from tasks.intake.listing import ListedFile, list_files
from tasks.intake.rejects import REJECTS, judge_rejects

END_OF_TEXT_ID, PADDING_ID = 0, 1
"""What ends and pads a history: their ids in a tokenizer that is trained on text (tasks/tokens/pieces.py)."""
FIRST_ITEM = max(END_OF_TEXT_ID, PADDING_ID) + 1
"""The token of the most frequent item: those before it end a history and pad it, as they end and pad a text."""
TOO_FEW = "too few items"
ITEMS_FILE = "items.parquet"
ITEMS = pa.schema([("token", pa.int64()), ("item", pa.string()), ("count", pa.int64())])


class InteractionsSettings(Settings):
    """Which histories are taken in; the defaults are the 5-core (Kang and McAuley 2018)."""

    sources: tuple[EventSource, ...] = Field(min_length=1)
    """Where events come from, in canonical order. A user or item of one name is the same in all of them."""
    min_items: int = Field(default=5, ge=1, le=1_000_000_000)
    """Least events of a user, counting only items that stay; 1 keeps every user."""
    min_users: int = Field(default=5, ge=1, le=1_000_000_000)
    """Least events of an item, counting only users that stay; 1 keeps every item. Of no effect with a vocabulary."""
    shard_tokens: int = Field(default=1 << 26, ge=1, le=1 << 30)
    """A shard is closed when it has at least this many tokens."""
    heldout: float = Field(default=0.1, ge=0, lt=1)
    """Share of users, chosen by their ids, whose histories no model may learn from."""
    reject_limit: float = Field(default=0.01, ge=0, le=1)
    """Largest share of events that may be unreadable before the stage fails."""

    @model_validator(mode="after")
    def _names_differ(self) -> "InteractionsSettings":
        names = [source.name for source in self.sources]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two sources are called {min(repeated)!r}; give each a `name` of its own")
        return self


class InteractionsInventory(Settings):
    """What the sources had when the run began; part of the stage's key, so what is unchanged is not read again."""

    files: tuple[tuple[ListedFile, ...], ...]
    """A list for each source of the settings, in their order."""


def take_interactions_inventory(settings: InteractionsSettings) -> InteractionsInventory:
    """List every source without reading it.

    Raises UserError for a path that matches nothing and for a file of another format.
    """
    return InteractionsInventory(
        files=tuple(list_files(source.name, source.paths, FORMATS[source.kind]) for source in settings.sources)
    )


@stage(version=1)
def interactions(
    inventory: InteractionsInventory,
    vocabulary: Artifact | None,
    settings: InteractionsSettings,
    out: Path,
    log: StageLog,
    batches: Batches,
) -> Metrics:
    """Write train-*.arrow and heldout-*.arrow, items.parquet, verdicts-00000.parquet and rejects.parquet.

    Shards have doc_id (the user), source (of the user's first event) and tokens, ending in end-of-text: the columns
    that training reads of text. Users stand in the order of their first events. items.parquet has token, item and
    count (kept events), most frequent first, and equally frequent ones by name.

    Args:
        vocabulary: this stage's artifact of an earlier night, whose tokens are kept; events of other items are left
            out. None: the items found are numbered.

    Raises:
        UserError: the sources hold no event at all.
        StageError: more than `reject_limit` of all events were unreadable, or a file changed meanwhile.
    """
    listed = [(source, file) for source, files in zip(settings.sources, inventory.files, strict=True) for file in files]
    read = batches.map("read", read_file, listed)
    rejects = pa.concat_tables([pq.read_table(batch.folder / "rejects.parquet") for batch in read])
    events = pl.concat([pl.read_parquet(batch.folder / "events.parquet") for batch in read])
    judge_rejects(events.height, rejects, settings.reject_limit, "interactions")
    write_rows(rejects, REJECTS, out / "rejects.parquet")

    users, user_of = _numbered(events["user"])
    items, item_of = _numbered(events["item"])
    known = pl.read_parquet(vocabulary.path / ITEMS_FILE, columns=["item"])["item"] if vocabulary else items
    allowed = items.is_in(known.implode()).to_numpy()
    kept = core(user_of, item_of, allowed, settings.min_items, settings.min_users if vocabulary is None else 1)
    if not kept.any():
        raise UserError(
            f"No user has {settings.min_items} events with items that stay: lower `min_items` or `min_users`, or check "
            "the columns of the `sources`."
        )
    counted = pl.DataFrame({"item": items, "count": np.bincount(item_of[kept], minlength=len(items))})
    if vocabulary is None:
        counted = counted.filter(pl.col("count") > 0).sort(["count", "item"], descending=[True, False])
    else:
        counted = known.to_frame().join(counted, on="item", how="left", maintain_order="left").fill_null(0)
    table = counted.with_row_index("token", FIRST_ITEM)
    write_rows(table.select(ITEMS.names), ITEMS, out / ITEMS_FILE)
    size = FIRST_ITEM + table.height
    tokens = items.to_frame("item").join(table, on="item", how="left", maintain_order="left")["token"]
    dtype: type[np.unsignedinteger] = np.uint16 if size <= 1 << 16 else np.uint32
    token_of: NDArray[np.unsignedinteger] = tokens.fill_null(END_OF_TEXT_ID).to_numpy().astype(dtype)

    verdicts = _verdicts(users, user_of, token_of[item_of] != END_OF_TEXT_ID, settings.min_items)
    write_rows(verdicts, VERDICTS, out / "verdicts-00000.parquet")
    staying = np.flatnonzero(kept)
    time = events["time"].fill_null(-np.inf).to_numpy()
    staying = staying[np.lexsort((time[staying], user_of[staying]))]  # stable: ties stay in the order of the files
    stream, lengths = _histories(user_of[staying], token_of[item_of[staying]])
    sources = np.repeat([source.name for source, _ in listed], [batch.facts["events"] for batch in read])
    first = np.unique(user_of, return_index=True)[1]
    remaining = np.flatnonzero(np.bincount(user_of[kept], minlength=len(users)))
    documents = pl.DataFrame({"doc_id": users[remaining], "source": sources[first[remaining]]})
    counts: Metrics = {
        "documents": len(users),
        "kept": documents.height,
        "dropped_too_few_items": len(users) - documents.height,
        "events": events.height,
        "kept_events": len(staying),
        "items": len(items),
        "kept_items": int((table["count"] > 0).sum()),
        "vocabulary": size,
        "rejects": rejects.num_rows,
    }
    held = is_heldout(documents["doc_id"], settings.heldout).to_numpy()
    owner = np.repeat(held, lengths)
    for split, mask, owned in (("train", ~held, ~owner), ("heldout", held, owner)):
        chosen = documents.filter(mask)
        shards = _write_shards(out, split, chosen, stream[owned], lengths[mask], settings.shard_tokens)
        counts |= {
            f"{split}_documents": chosen.height,
            f"{split}_tokens": int(owned.sum()),
            f"{split}_shards": shards,
        }
    log.info(f"{counts['kept']:,} of {len(users):,} users and {counts['kept_items']:,} of {len(items):,} items stay")
    return counts


def read_file(item: tuple[EventTable | ItemLines, ListedFile], folder: Path) -> Facts:
    """Batch: write the events of one file, and what had to be refused."""
    source, file = item
    events, refused = read_events(source, file)
    events.write_parquet(folder / "events.parquet")
    rejects = refused.select(path=pl.lit(file.name), row="row", reason="reason")
    write_rows(rejects, REJECTS, folder / "rejects.parquet")
    return {"events": events.height}


def core(
    user_of: NDArray[np.uint32],
    item_of: NDArray[np.uint32],
    allowed: NDArray[np.bool_],
    min_items: int,
    min_users: int,
) -> NDArray[np.bool_]:
    """Which events are in the largest set whose every user has `min_items` and every item `min_users` events in it.

    Args:
        user_of, item_of: shape [events], numbers from 0.
        allowed: shape [items], which items may be in it at all.
    """
    kept = allowed[item_of]
    while True:
        busy = np.bincount(user_of[kept], minlength=int(user_of.max(initial=0)) + 1) >= min_items
        wanted = np.bincount(item_of[kept], minlength=len(allowed)) >= min_users
        fewer = kept & busy[user_of] & wanted[item_of]
        if np.array_equal(fewer, kept):
            return kept
        kept = fewer


def _numbered(names: pl.Series) -> tuple[pl.Series, NDArray[np.uint32]]:
    """The different names in the order of their first appearance, and the number of each entry's name."""
    different = names.unique(maintain_order=True)
    return different, names.cast(pl.Enum(different)).to_physical().cast(pl.UInt32).to_numpy()


def _histories(
    user_of: NDArray[np.uint32], tokens: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """The tokens (shape [events], sorted by user) with an end-of-text after each user's, and the lengths so far."""
    ends = np.r_[np.flatnonzero(np.diff(user_of)) + 1, len(user_of)]
    return np.insert(tokens, ends, END_OF_TEXT_ID), np.diff(ends, prepend=0) + 1


def _verdicts(users: pl.Series, user_of: NDArray[np.uint32], stays: NDArray[np.bool_], min_items: int) -> pl.DataFrame:
    """One verdict a user; a user stays if enough events are with items that stay (`stays`, shape [events])."""
    frame = pl.DataFrame(
        {
            "doc_id": users,
            "events": np.bincount(user_of, minlength=len(users)),
            "left": np.bincount(user_of[stays], minlength=len(users)),
        }
    )
    kept = pl.col("left") >= min_items
    return frame.select(
        "doc_id",
        pl.lit("interactions").alias("stage"),
        pl.when(kept).then(pl.lit("kept")).otherwise(pl.lit("dropped")).alias("verdict"),
        pl.when(kept).then(pl.lit("enough items")).otherwise(pl.lit(TOO_FEW)).alias("reason"),
        pl.format("{} of {} events are with items that stay, at least {}", "left", "events", pl.lit(min_items)).alias(
            "evidence"
        ),
    )


def _write_shards(
    out: Path,
    split: str,
    documents: pl.DataFrame,
    tokens: NDArray[np.unsignedinteger],
    lengths: NDArray[np.int64],
    shard_tokens: int,
) -> int:
    """Write the shards of one split, if need be an empty one; how many there are."""
    schema = pa.schema(
        [("doc_id", pa.string()), ("source", pa.string()), ("tokens", pa.list_(pa.from_numpy_dtype(tokens.dtype)))]
    )
    begins = np.cumsum(lengths) - lengths
    firsts = [0, *(np.flatnonzero(np.diff(begins // shard_tokens)) + 1).tolist(), documents.height]
    for number, (first, last) in enumerate(pairwise(firsts)):
        offsets = np.zeros(last - first + 1, dtype=np.int32)
        np.cumsum(lengths[first:last], out=offsets[1:])
        own = tokens[begins[first] :][: offsets[-1]] if last > first else tokens[:0]
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(own))
        table = documents[first:last].to_arrow().append_column("tokens", lists).cast(schema).combine_chunks()
        with pa.ipc.new_file(str(out / f"{split}-{number:05d}.arrow"), schema) as writer:
            writer.write_table(table)
    return len(firsts) - 1
