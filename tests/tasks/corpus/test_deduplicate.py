"""Deduplicate: the verdict on a document depends on what came before it, and on nothing else."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches
from tasks.core.errors import StageError
from tasks.core.stage import Metrics, StageLog
from tasks.corpus.deduplicate import DeduplicateSettings, deduplicate, sign_texts
from tasks.corpus.documents import document_files
from tasks.similarity import band_index, matching
from tests.corpora import Row, corpus_of, fresh, rows_of, verdicts_of
from tests.tasks.similarity.near_texts import edited, jaccard, prose

DEFAULT = DeduplicateSettings()
LOOSE = DeduplicateSettings(bands=8, rows=1, threshold=0.5)
"""Nearly every two texts that have anything in common share a key."""


def night(
    folder: Path,
    rows: Sequence[Row],
    history: tuple[Artifact, ...] = (),
    how: DeduplicateSettings = DEFAULT,
    batch_bytes: int = 1000,
) -> tuple[Artifact, Metrics]:
    """Deduplicate one night's documents."""
    documents = corpus_of(folder / "in", rows, batch_bytes)
    metrics = deduplicate(documents, history, how, fresh(folder / "out"), StageLog(), Batches(folder / "batches"))
    return Artifact.of("deduplicate", folder / "out"), metrics


def nights(folder: Path, parts: Sequence[Sequence[Row]], how: DeduplicateSettings = DEFAULT) -> tuple[Artifact, ...]:
    """Deduplicate night after night."""
    history: tuple[Artifact, ...] = ()
    for number, rows in enumerate(parts):
        history += (night(folder / str(number), rows, history, how)[0],)
    return history


def judged(artifacts: Sequence[Artifact]) -> pl.DataFrame:
    """The verdicts of all nights but for the number of the night, which is another in one pass."""
    return pl.concat([verdicts_of(artifact.path) for artifact in artifacts if document_files(artifact)]).drop("night")


def kept_rows(artifacts: Sequence[Artifact]) -> list[Row]:
    return [row for artifact in artifacts for row in rows_of(artifact.path)]


def rows_from(texts: Sequence[str]) -> list[Row]:
    return [(f"d{number}", text, "s") for number, text in enumerate(texts)]


def matches(texts: Sequence[str], how: DeduplicateSettings = DEFAULT) -> list[int]:
    """For each text the number of the one that it is said to repeat, or its own."""
    with tempfile.TemporaryDirectory() as folder:
        verdicts = verdicts_of(night(Path(folder), rows_from(texts), how=how, batch_bytes=20_000)[0].path)
    return [
        int((evidence or f"itself d{number}").rsplit(" d")[-1]) for number, evidence in enumerate(verdicts["evidence"])
    ]


def test_layout_case_and_punctuation_do_not_make_another_text(tmp_path: Path) -> None:
    text = " ".join(prose(1))
    made, _ = night(tmp_path, rows_from([text, text.upper().replace(" ", ",\n  ") + "!", text + " more"]))
    verdicts = verdicts_of(made.path)
    assert verdicts["reason"].to_list() == ["new", "exact duplicate", "near-duplicate"]
    assert verdicts["similarity"].to_list()[:2] == [None, 1]
    assert verdicts["similarity"][2] > 0.9


def test_texts_without_words_repeat_nothing_and_short_ones_repeat_only_themselves() -> None:
    assert matches(["", "...", "", "one", "two", "one", "one two", "One, two"]) == [0, 1, 2, 3, 4, 3, 6, 6]


def test_a_near_duplicate_is_dropped_past_the_threshold_only() -> None:
    base = prose(3)
    near, far = edited(base, 2), edited(base, 40)
    assert jaccard(base, near) > 0.85
    assert jaccard(base, far) < 0.4
    texts = [" ".join(words) for words in (base, near, far)]
    assert matches(texts) == [0, 0, 2]
    assert matches(texts, DeduplicateSettings(threshold=1)) == [0, 1, 2]


CORPORA = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 1, 3, 8, 20]), st.integers(0, 3)), min_size=1, max_size=12
).map(lambda specs: [" ".join(edited(prose(base, 80), edits, seed)) for base, edits, seed in specs])


@settings(max_examples=30, deadline=None)
@given(CORPORA, st.sampled_from([DEFAULT, LOOSE]))
def test_matches_are_those_of_a_comparison_of_all_pairs(texts: list[str], how: DeduplicateSettings) -> None:
    from tasks.similarity.minhash import estimate

    keys, sketches, contents = sign_texts(pa.array(texts, pa.large_string()), how)
    expected = []
    for later in range(len(texts)):
        similarities = np.empty(later)
        estimate(np.repeat(sketches[later : later + 1], later, axis=0), sketches[:later], similarities)
        exact = np.flatnonzero((contents[later] == contents[:later]).all(axis=1))
        near = np.flatnonzero((keys[later] == keys[:later]).any(axis=1) & (similarities >= how.threshold))
        expected.append(int([*exact, *near, later][0]))
    assert matches(texts, how) == expected


@settings(max_examples=20, deadline=None)
@given(CORPORA, st.data(), st.sampled_from([DEFAULT, LOOSE]))
def test_as_many_nights_as_one_likes_give_what_one_pass_gives(
    texts: list[str], data: st.DataObject, how: DeduplicateSettings
) -> None:
    rows = rows_from(texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    parts = [rows[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        many, one = nights(Path(folder, "many"), parts, how), nights(Path(folder, "one"), [rows], how)
        assert judged(many).equals(judged(one))
        assert kept_rows(many) == kept_rows(one)
        survivors = pl.concat([verdicts_of(artifact.path) for artifact in many if document_files(artifact)])
        survivors = survivors.drop_nulls("survivor")
        of = {doc_id: number for number, part in enumerate(parts) for doc_id, _, _ in part}
        assert survivors["night"].to_list() == [of[doc_id] for doc_id in survivors["survivor"]]


def test_runs_are_merged_by_level_over_many_small_nights(tmp_path: Path) -> None:
    rows = rows_from([" ".join(edited(prose(index % 13, 60), index % 3, index)) for index in range(42)])
    parts = [rows[begin : begin + 2] for begin in range(0, len(rows), 2)]
    many = nights(tmp_path / "many", parts)
    assert judged(many).equals(judged(nights(tmp_path / "one", [rows])))
    record = json.loads((many[-1].path / "index" / "index.json").read_bytes())
    assert [run["start"] for run in record["runs"]["words"]] == [0, 32, 40]  # 16 nights, 4 nights, 1 night


def test_small_parts_and_ranges_change_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_from([" ".join(edited(prose(index % 17, 60), index % 3, index)) for index in range(90)])
    expected = judged(nights(tmp_path / "one", [rows]))
    monkeypatch.setattr(band_index, "PART_ENTRIES", 50)
    monkeypatch.setattr(band_index, "MOST_PARTS", 4)
    monkeypatch.setattr(matching, "PAIRS", 7)
    many = nights(tmp_path / "many", [rows[:40], rows[40:41], rows[41:42], rows[42:50], rows[50:]])
    assert judged(many).equals(expected)
    assert len(list((many[0].path / "index").glob("bands-*.keys"))) == 4


def test_a_key_that_many_share_is_compared_with_its_earliest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "FIRST_OF_A_KEY", 3)
    shared = prose(0, 30)
    texts = [" ".join(shared + prose(seed, 60)) for seed in range(1, 31)]
    how = DeduplicateSettings(bands=1, rows=1, threshold=0.9)
    keys, _, _ = sign_texts(pa.array(texts, pa.large_string()), how)
    common = [text for text, key in zip(texts, keys[:, 0], strict=True) if (keys[:, 0] == key).sum() > 3]
    assert len(common) >= 4  # the same first shingle, and too little else in common
    near = [text + " more" for text in common]
    assert matches([*common, *near], how)[len(common) :] == [0, 1, 2, *range(len(common) + 3, 2 * len(common))]
    rows = rows_from([*common, *near])
    with tempfile.TemporaryDirectory() as folder:
        many = nights(Path(folder, "many"), [rows[begin : begin + 2] for begin in range(0, len(rows), 2)], how)
        assert judged(many).equals(judged(nights(Path(folder, "one"), [rows], how)))


def test_each_drop_names_a_kept_survivor_and_its_night_and_the_rest_is_copied_in_order(tmp_path: Path) -> None:
    base, other = prose(5), prose(6)
    chain = edited(base, 3, seed=1)
    rows = [
        ("a", " ".join(base), "s"),
        ("b", " ".join(other), "t"),
        ("c", " ".join(chain), "s"),
        ("d", " ".join(other).upper(), "t"),
        ("e", " ".join(prose(7)), "s"),
        ("f", " ".join(edited(chain, 3, seed=2)), "s"),
    ]
    earlier, _ = night(tmp_path / "0", rows[:1])
    made, metrics = night(tmp_path / "1", rows[1:], (earlier,))
    assert rows_of(made.path) == [rows[1], rows[4]]
    verdicts = verdicts_of(made.path)
    assert verdicts.schema == {
        **dict.fromkeys(["doc_id", "stage", "verdict", "reason", "evidence", "survivor"], pl.String),
        "night": pl.Int64,
        "similarity": pl.Float64,
    }
    assert verdicts.select("verdict", "reason", "survivor", "night").rows() == [
        ("kept", "new", None, None),
        ("dropped", "near-duplicate", "a", 0),
        ("dropped", "exact duplicate", "b", 1),
        ("kept", "new", None, None),
        ("dropped", "near-duplicate", "a", 0),
    ]
    assert verdicts["evidence"][2] == "same words as b"
    assert verdicts["similarity"][2] == 1
    assert metrics == {
        "documents": 5,
        "kept": 2,
        "kept_bytes": len(rows[1][1]) + len(rows[4][1]),
        "dropped_exact_duplicate": 1,
        "dropped_near_duplicate": 2,
    }


def test_how_documents_are_cut_into_files_changes_no_verdict(tmp_path: Path) -> None:
    rows = [(f"d{index}", " ".join(edited(prose(index % 5, 50), index % 3, index)), "s") for index in range(30)]
    small, _ = night(tmp_path / "small", rows, batch_bytes=1000)
    large, _ = night(tmp_path / "large", rows, batch_bytes=10**6)
    assert rows_of(small.path) == rows_of(large.path)
    assert verdicts_of(small.path).equals(verdicts_of(large.path))
    assert len(list(small.path.glob("verdicts-*"))) == len(list(small.path.glob("documents-*"))) > 1


def test_a_night_without_documents_and_one_without_words_change_nothing(tmp_path: Path) -> None:
    rows = rows_from([" ".join(edited(prose(index % 3, 50), 1, index)) for index in range(8)])
    wordless = [("w", "...", "s")]
    many = nights(tmp_path / "many", [[], rows[:4], [], wordless, [], rows[4:]])
    assert judged(many).equals(judged(nights(tmp_path / "one", [[*rows[:4], *wordless, *rows[4:]]])))


def test_a_stage_that_was_killed_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = rows_from([" ".join(edited(prose(index % 9, 50), index % 2, index)) for index in range(60)])
    whole, _ = night(tmp_path / "whole", rows)
    documents, batches = corpus_of(tmp_path / "in", rows), Batches(tmp_path / "batches")

    class Killed(StageLog):
        def progress(self, done: float, total: float, unit: str) -> None:
            if unit == "batches (copy)":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deduplicate(
            documents, (), DEFAULT, fresh(tmp_path / "killed"), StageLog(), Batches(batches.folder, log=Killed())
        )
    signed = {path: path.stat().st_mtime_ns for path in (batches.folder / "sign").rglob("*")}
    deduplicate(documents, (), DEFAULT, fresh(tmp_path / "out"), StageLog(), batches)
    assert {path: path.stat().st_mtime_ns for path in (batches.folder / "sign").rglob("*")} == signed
    assert Artifact.of("deduplicate", tmp_path / "out").digest == whole.digest


def test_a_history_that_is_not_the_whole_history_is_refused(tmp_path: Path) -> None:
    history = nights(tmp_path, [rows_from(["one"]), rows_from(["two"])])
    with pytest.raises(StageError, match="cannot stand as night 0"):
        night(tmp_path / "second only", rows_from(["three"]), history[1:])
    with pytest.raises(StageError, match=r"threshold=0\.75"):
        night(tmp_path / "other settings", rows_from(["three"]), history, DeduplicateSettings(threshold=0.5))


@pytest.mark.parametrize("edits", [0, 1, 2])
def test_injected_near_duplicates_are_found(edits: int) -> None:
    originals = [prose(index, 150) for index in range(200)]
    texts = [" ".join(words) for words in originals] + [
        " ".join(edited(words, edits, index)) for index, words in enumerate(originals)
    ]
    found = matches(texts)
    recalled = np.mean([found[200 + index] == index for index in range(200)])
    assert recalled >= (1 if edits == 0 else 0.99)
    assert found[:200] == list(range(200))
