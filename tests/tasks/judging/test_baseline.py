"""Baseline: learns from the chosen labels only, and its interval is Wilson's."""

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.judging.baseline import BaselineSettings, baseline, wilson
from tests.corpora import fresh

TOPICS = ["matrix vector product", "graph node edge", "table row column"]


@pytest.fixture
def labelled(tmp_path: Path) -> Artifact:
    """Texts of three topics in turn."""
    folder = fresh(tmp_path / "examples")
    for split, count in (("train", 120), ("test", 30)):
        table = pa.table(
            {
                "doc_id": [f"{split}{index}" for index in range(count)],
                "text": [f"{TOPICS[index % 3]} number {index}" for index in range(count)],
                "label": pa.array([index % 3 for index in range(count)], pa.int32()),
                "tokens": pa.array([[0]] * count, pa.list_(pa.uint16())),
            }
        )
        with pa.ipc.new_file(str(folder / f"{split}.arrow"), table.schema) as writer:
            writer.write_table(table)
    (folder / "labels.json").write_text(json.dumps(["a", "b", "c"]))
    return Artifact.of("examples", folder)


def test_words_that_tell_are_enough_for_the_baseline(labelled: Artifact, tmp_path: Path) -> None:
    metrics = baseline(labelled, BaselineSettings(labels=30), fresh(tmp_path / "out"), StageLog())
    predictions = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert predictions.schema == {"doc_id": pl.String, "label": pl.Int32, "predicted": pl.Int32}
    assert predictions["predicted"].to_list() == [index % 3 for index in range(30)]
    assert metrics == {
        "accuracy": 1.0,
        "accuracy_low": pytest.approx(0.88649, abs=1e-5),
        "accuracy_high": pytest.approx(1),
        "labels": 30,
        "test": 30,
    }


def test_the_same_seed_gives_the_same_bytes(labelled: Artifact, tmp_path: Path) -> None:
    for name in ("one", "two"):
        baseline(labelled, BaselineSettings(labels=9), fresh(tmp_path / name), StageLog())
    assert Artifact.of("x", tmp_path / "one").digest == Artifact.of("x", tmp_path / "two").digest


def test_more_labels_than_the_pool_has_are_the_users_mistake(labelled: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"budget of 121 labels .* pool has 120"):
        baseline(labelled, BaselineSettings(labels=121), fresh(tmp_path / "out"), StageLog())


@pytest.mark.parametrize(  # from R: binom::binom.confint(right, total, methods = "wilson")
    ("right", "total", "low", "high"),
    [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (81, 263, 0.25529, 0.36623)],
)
def test_the_interval_is_wilsons(right: int, total: int, low: float, high: float) -> None:
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-4)
