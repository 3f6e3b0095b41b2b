"""Shares: the mixture is kept, what is new leads, and nothing small is read to death."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.spec import Source
from tasks.core.errors import UserError
from tasks.training.mixing import REPEATS, count_tokens, mix


def shard(path: Path, documents: list[tuple[str, int]]) -> Path:
    """A shard of documents of these sources and lengths."""
    table = pa.table(
        {
            "source": pa.array([source for source, _ in documents], pa.string()),
            "tokens": pa.array([[1] * length for _, length in documents], pa.list_(pa.uint16())),
        }
    )
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shard(tmp_path / "train-0.arrow", [("books", 600), ("code", 300), ("books", 100)])


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return shard(tmp_path / "train-1.arrow", [("books", 300), ("web", 100)])


def mixed(new: tuple[Path, ...], old: tuple[Path, ...], tokens: int = 1000, **settings: object) -> list[Source]:
    given: dict[str, Any] = {"mixture": {}, "replay": 0.25, "window": 33, **settings}
    return list(mix(new, old, tokens=tokens, **given))


def test_a_first_night_reads_everything_as_one_source(new: Path) -> None:
    assert mixed((new,), ()) == [Source(name="all", shards=(new,))]


def test_a_later_night_reads_a_quarter_of_what_is_old(new: Path, old: Path) -> None:
    assert mixed((new,), (old,)) == [
        Source(name="all, new", weight=0.75, shards=(new,)),
        Source(name="all, old", weight=0.25, shards=(old,)),
    ]


def test_new_documents_are_not_read_more_than_four_times_each(new: Path, old: Path) -> None:
    of_new, of_old = mixed((new,), (old,), tokens=16_000)
    assert (of_new.weight, of_old.weight) == (0.1, 0.9)  # 400 new tokens, four times, of 16,000


def test_without_replay_only_what_is_new_is_read(new: Path, old: Path) -> None:
    assert mixed((new,), (old,), replay=0.0) == [Source(name="all, new", shards=(new,))]


def test_what_does_not_fill_a_window_is_read_with_the_rest(new: Path, old: Path) -> None:
    assert mixed((new,), (old,), window=401) == [Source(name="all", shards=(old, new))]


def test_a_mixture_keeps_its_shares_and_replays_within_each_source(new: Path, old: Path) -> None:
    assert mixed((new,), (old,), mixture={"books": 3, "code": 1}) == [
        Source(name="books, new", weight=0.75 * 0.75, shards=(new,), only="books"),
        Source(name="books, old", weight=0.75 * 0.25, shards=(old,), only="books"),
        Source(name="code", weight=0.25, shards=(old, new), only="code"),
    ]


def test_a_source_that_no_document_has_is_the_users_mistake(new: Path, old: Path) -> None:
    with pytest.raises(UserError, match=r"names wiki, and no document .* there; the corpus has books, code, web"):
        mixed((new,), (old,), mixture={"books": 1, "wiki": 1})


def test_a_source_that_fills_no_window_is_the_users_mistake(new: Path, old: Path) -> None:
    with pytest.raises(UserError, match="The source web has 100 tokens to train on, and one window needs 257"):
        mixed((new,), (old,), mixture={"web": 1}, window=257)
    with pytest.raises(UserError, match="The corpus has 400 tokens"):
        mixed((new,), (), window=401)


def test_tokens_are_counted_by_source(old: Path, new: Path) -> None:
    assert count_tokens([old, new], by_source=True) == {"books": 1000, "code": 300, "web": 100}
    assert count_tokens([old, new], by_source=False) == {"": 1400}


@given(
    fresh=st.integers(33, 10**4), known=st.integers(33, 10**4), tokens=st.integers(1, 10**6), replay=st.floats(0, 0.99)
)
def test_shares_add_up_and_new_ones_never_exceed_four_epochs(
    tmp_path_factory: pytest.TempPathFactory, fresh: int, known: int, tokens: int, replay: float
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    new, old = shard(folder / "new.arrow", [("a", fresh)]), shard(folder / "old.arrow", [("a", known)])
    sources = mixed((new,), (old,), tokens=tokens, replay=replay)
    assert sum(source.weight for source in sources) == pytest.approx(1)
    assert sources[0].weight * tokens <= max(REPEATS * fresh, 1) * (1 + 1e-9)
    assert sources[0].weight <= 1 - replay or replay == 0
