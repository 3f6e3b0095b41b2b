"""Interactions: a user's history is a document in the order of time, and its tokens are items."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.order.windows import Windows
from tasks.core.artifact import Artifact
from tasks.core.batches import Batches
from tasks.core.errors import StageError, UserError
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.interactions import FIRST_ITEM, InteractionsSettings, core, interactions, take_interactions_inventory
from tests.corpora import fresh


def csv_of(path: Path, **columns: str) -> dict[str, Any]:
    return {"kind": "csv", "paths": [str(path)], "name": "log", **columns}


def lines_of(path: Path, name: str = "lines") -> dict[str, Any]:
    return {"kind": "lines", "paths": [str(path)], "name": name}


def settings_of(*sources: dict[str, Any], **values: Any) -> InteractionsSettings:
    return InteractionsSettings.model_validate(
        {"sources": sources, "min_items": 1, "min_users": 1, "heldout": 0, **values}
    )


def run(folder: Path, chosen: InteractionsSettings, vocabulary: Artifact | None = None) -> Metrics:
    out = fresh(folder / "out")
    batches = Batches(folder / "batches")
    return interactions(take_interactions_inventory(chosen), vocabulary, chosen, out, StageLog(), batches)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def shards(folder: Path, pattern: str = "*.arrow") -> list[pa.Table]:
    paths = sorted((folder / "out").glob(pattern))
    return [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]


def histories(folder: Path, pattern: str = "*.arrow") -> dict[str, list[str]]:
    """The items of each user, spelled out; checks that each history ends, and only once."""
    names = dict(pl.read_parquet(folder / "out" / "items.parquet").select("token", "item").iter_rows())
    found = {}
    for table in shards(folder, pattern):
        for user, tokens in zip(table["doc_id"].to_pylist(), table["tokens"].to_pylist(), strict=True):
            assert tokens[-1] == 0
            found[user] = [names[token] for token in tokens[:-1]]
    return found


def verdicts(folder: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(folder / "out" / "verdicts-00000.parquet").rows()


def test_events_are_put_in_the_order_of_time_and_ties_in_the_order_of_the_files(tmp_path: Path) -> None:
    write(tmp_path / "in" / "b.csv", "who,what,when,x\nann,pen,5,\nbob,cup,2,\nann,cup,1,\n")
    write(tmp_path / "in" / "a.csv", 'x,when,what,who\n,5,"red, hat",ann\n,5,cap,ann\n,9.5,pen,bob\n,-1,pen,bob\n')
    metrics = run(tmp_path, settings_of(csv_of(tmp_path / "in", user="who", item="what", time="when")))
    assert histories(tmp_path) == {"ann": ["cup", "red, hat", "cap", "pen"], "bob": ["pen", "cup", "pen"]}
    assert pl.read_parquet(tmp_path / "out" / "items.parquet").rows() == [
        (2, "pen", 3),
        (3, "cup", 2),
        (4, "cap", 1),
        (5, "red, hat", 1),
    ]
    (table,) = shards(tmp_path, "train-*.arrow")
    assert table.schema == pa.schema(
        [("doc_id", pa.string()), ("source", pa.string()), ("tokens", pa.list_(pa.uint16()))]
    )
    assert table["source"].to_pylist() == ["log", "log"]
    assert metrics == {
        "documents": 2,
        "kept": 2,
        "dropped_too_few_items": 0,
        "events": 7,
        "kept_events": 7,
        "items": 4,
        "kept_items": 4,
        "vocabulary": 6,
        "rejects": 0,
        "train_documents": 2,
        "train_tokens": 9,
        "train_shards": 1,
        "heldout_documents": 0,
        "heldout_tokens": 0,
        "heldout_shards": 1,
    }


def test_dates_are_times_and_without_a_column_rows_are_in_order(tmp_path: Path) -> None:
    dates = ["2024-01-02", "2024-01-01T23:59:59.5Z", "2024-01-01 23:59:58", "2024-01-01T23:59:59.25"]
    rows = "".join(f"ann,{index},{date}\n" for index, date in enumerate(dates))
    path = write(tmp_path / "log.csv", "user,item,time\n" + rows)
    run(tmp_path / "dated", settings_of(csv_of(path)))
    assert histories(tmp_path / "dated") == {"ann": ["2", "3", "1", "0"]}
    source = csv_of(path) | {"time": None}
    run(tmp_path / "undated", settings_of(source))
    assert histories(tmp_path / "undated") == {"ann": ["0", "1", "2", "3"]}


def test_lines_of_items_are_histories(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.txt", "7 x y  x\n\nanna y\n")
    write(tmp_path / "in" / "b.txt", "7 z")
    metrics = run(tmp_path, settings_of(lines_of(tmp_path / "in")))
    assert histories(tmp_path) == {"7": ["x", "y", "x", "z"], "anna": ["y"]}
    assert (metrics["events"], metrics["rejects"]) == (5, 0)


def test_users_and_items_with_few_events_go_until_none_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "log.txt", "a x y\nb x y z\nc z w\nd x\n")
    metrics = run(tmp_path, settings_of(lines_of(path), min_items=2, min_users=2))
    assert histories(tmp_path) == {"a": ["x", "y"], "b": ["x", "y"]}
    said = "{} of {} events are with items that stay, at least 2"
    assert verdicts(tmp_path) == [
        ("a", "interactions", "kept", "enough items", said.format(2, 2)),
        ("b", "interactions", "kept", "enough items", said.format(2, 3)),
        ("c", "interactions", "dropped", "too few items", said.format(0, 2)),
        ("d", "interactions", "dropped", "too few items", said.format(1, 1)),
    ]
    assert (metrics["dropped_too_few_items"], metrics["items"], metrics["kept_items"]) == (2, 4, 2)
    with pytest.raises(UserError, match="No user has 3 events with items that stay: lower `min_items`"):
        run(tmp_path / "none", settings_of(lines_of(path), min_items=3, min_users=3))


EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


@given(EVENTS, st.integers(1, 4), st.integers(1, 4), st.sets(st.integers(0, 5)))
def test_the_core_is_what_taking_away_one_at_a_time_leaves(
    events: list[tuple[int, int]], min_items: int, min_users: int, forbidden: set[int]
) -> None:
    left = [event for event in events if event[1] not in forbidden]
    while True:
        users, items = [user for user, _ in left], [item for _, item in left]
        bad = [event for event in left if users.count(event[0]) < min_items or items.count(event[1]) < min_users]
        if not bad:
            break
        left = [event for event in left if event != bad[0]]
    allowed = np.array([item not in forbidden for item in range(6)])
    user_of, item_of = np.array(events, dtype=np.uint32).T
    kept = core(user_of, item_of, allowed, min_items, min_users)
    assert [event for event, stays in zip(events, kept, strict=True) if stays] == left


def test_a_later_night_keeps_the_tokens_of_the_first(tmp_path: Path) -> None:
    run(tmp_path / "first", settings_of(lines_of(write(tmp_path / "1.txt", "a x y\nb x z"))))
    first = Artifact.of("interactions", tmp_path / "first" / "out")
    second = settings_of(lines_of(write(tmp_path / "2.txt", "a z new z\nc new")), min_users=5)
    metrics = run(tmp_path / "second", second, first)
    assert pl.read_parquet(tmp_path / "second" / "out" / "items.parquet").rows() == [
        (2, "x", 0),
        (3, "y", 0),
        (4, "z", 2),
    ]
    assert histories(tmp_path / "second") == {"a": ["z", "z"]}
    assert (metrics["vocabulary"], metrics["kept_items"], metrics["dropped_too_few_items"]) == (5, 1, 1)


def test_bad_rows_are_written_down_and_too_many_stop_the_night(tmp_path: Path) -> None:
    rows = ["a,x,1", "a,y", "a,z,2,3", ",x,4", "a,,5", "a,x,soon", "a,x,", "a,x,inf", "a,y,0"]
    path = write(tmp_path / "in" / "log.csv", "user,item,time\n" + "\n".join(rows))
    write(tmp_path / "in" / "other.csv", "user,thing\nb,x\n")
    (tmp_path / "in" / "raw.csv").write_bytes(b"user,item,time\nb,\xff,1\n")
    run(tmp_path, settings_of(csv_of(tmp_path / "in"), reject_limit=0.9))
    assert histories(tmp_path) == {"a": ["y", "x"]}
    found = pl.read_parquet(tmp_path / "out" / "rejects.parquet").rows()
    assert found[:7] == [
        ("log/log.csv", 1, "2 fields instead of 3"),
        ("log/log.csv", 2, "4 fields instead of 3"),
        ("log/log.csv", 3, "no user"),
        ("log/log.csv", 4, "no item"),
        ("log/log.csv", 5, "soon is neither a number nor an ISO 8601 date"),
        ("log/log.csv", 6, "no time"),
        ("log/log.csv", 7, "inf is neither a number nor an ISO 8601 date"),
    ]
    assert [row[:2] for row in found[7:]] == [("log/other.csv", None), ("log/raw.csv", None)]
    assert "item" in found[7][2]
    assert str(tmp_path) not in str(found)
    with pytest.raises(StageError, match=r"7 of 9 interactions .* log/log\.csv row 1 \(2 fields instead of 3\)"):
        run(tmp_path / "again", settings_of(csv_of(path), reject_limit=0.5))


def test_a_user_without_items_is_a_bad_line(tmp_path: Path) -> None:
    run(tmp_path, settings_of(lines_of(write(tmp_path / "in.txt", "a x\n\nb\n")), reject_limit=0.5))
    assert pl.read_parquet(tmp_path / "out" / "rejects.parquet").rows() == [("lines/in.txt", 2, "a user without items")]


@pytest.mark.parametrize("shard_tokens", [1, 7, 10**6])
def test_shards_are_one_stream_of_windows_however_they_are_cut(tmp_path: Path, shard_tokens: int) -> None:
    text = "".join(
        f"u{user} " + " ".join(f"i{(user * 7 + k) % 11}" for k in range(user % 5 + 1)) + "\n" for user in range(40)
    )
    source = lines_of(write(tmp_path / "in.txt", text))
    metrics = run(tmp_path, settings_of(source, shard_tokens=shard_tokens, heldout=0.2))
    paths = sorted((tmp_path / "out").glob("train-*.arrow"))
    assert len(paths) == metrics["train_shards"]
    windows = Windows(paths, 8)
    assert windows.tokens == metrics["train_tokens"]
    together = [
        token for table in shards(tmp_path, "train-*") for tokens in table["tokens"].to_pylist() for token in tokens
    ]
    assert windows.read([0])[0].tolist() == together[:9]
    assert {token for token in together if token} <= set(range(FIRST_ITEM, FIRST_ITEM + 11))
    assert list(histories(tmp_path, "train-*")) == [
        f"u{user}" for user in range(40) if f"u{user}" not in histories(tmp_path, "heldout-*")
    ]
    assert 0 < metrics["heldout_documents"] < 20


def test_many_items_take_four_bytes(tmp_path: Path) -> None:
    text = "u " + " ".join(map(str, range(65_536)))
    metrics = run(tmp_path, settings_of(lines_of(write(tmp_path / "in.txt", text))))
    assert metrics["vocabulary"] == 65_538
    assert shards(tmp_path, "train-*")[0].schema.field("tokens").type == pa.list_(pa.uint32())


def test_shards_open_in_datasets(tmp_path: Path) -> None:
    from datasets import load_dataset

    run(tmp_path, settings_of(lines_of(write(tmp_path / "in.txt", "u x y\n"))))
    shard = str(tmp_path / "out" / "train-00000.arrow")
    loaded = load_dataset("arrow", data_files=shard, cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded[0] == {"doc_id": "u", "source": "lines", "tokens": [2, 3, 0]}


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "in" / f"{name}.txt", "".join(f"{name}{user % 7} i{user % 5} i{user}\n" for user in range(50)))
    for name in ("one", "two"):
        run(tmp_path / name, settings_of(lines_of(tmp_path / "in"), heldout=0.3))
    one, two = (Artifact.of("interactions", tmp_path / name / "out").digest for name in ("one", "two"))
    assert one == two


def test_mistakes_are_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Source 'log': no file matches .*; correct its `paths`\."):
        take_interactions_inventory(settings_of(csv_of(tmp_path / "*.csv")))
    with pytest.raises(UserError, match=r"is not one of \.csv; convert or exclude it"):
        take_interactions_inventory(settings_of(csv_of(write(tmp_path / "in.txt", "x"))))
    empty = settings_of(lines_of(write(tmp_path / "empty.txt", "\n")))
    with pytest.raises(UserError, match="The sources hold no interactions: check the `sources` of the recipe"):
        run(tmp_path, empty)
    with pytest.raises(ValidationError, match="two sources are called 'lines'"):
        settings_of(lines_of(tmp_path / "a"), lines_of(tmp_path / "b"))


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "in.txt", "a x\n")
    chosen = settings_of(lines_of(path))
    inventory = take_interactions_inventory(chosen)
    write(path, "a x y\n")
    with pytest.raises(StageError, match=r"in\.txt changed while it was being read; run again when it is complete\."):
        interactions(inventory, None, chosen, fresh(tmp_path / "out"), StageLog(), Batches(tmp_path / "b"))


def test_published_counts_come_out(tmp_path: Path, shared_data: Path) -> None:
    recommend = shared_data / "recommend"
    chosen = settings_of(lines_of(recommend / "amazon_beauty.txt"), min_items=5, min_users=5)
    metrics = run(tmp_path / "beauty", chosen)  # published as a 5-core: nothing goes
    assert (metrics["documents"], metrics["kept"]) == (22_363, 22_363)
    assert (metrics["events"], metrics["kept_events"]) == (198_502, 198_502)
    assert (metrics["items"], metrics["kept_items"]) == (12_101, 12_101)
    columns = {"user": "userId", "item": "movieId", "time": "timestamp"}
    metrics = run(tmp_path / "movies", settings_of(csv_of(recommend / "ml-latest-small" / "ratings.csv", **columns)))
    assert (metrics["documents"], metrics["events"] + metrics["rejects"]) == (610, 100_836)  # the copy may be damaged
    assert metrics["rejects"] <= 1
