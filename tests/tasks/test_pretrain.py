"""Pre-training as a stage: what it writes, what it reports, and what it says when it cannot."""

from pathlib import Path

import polars as pl
import pytest

from models.folder import load_config
from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.core.store import Artifact
from tasks.pretrain import PretrainSettings, mean_last_loss, pretrain, shape, vocabulary_size, weights_in
from tests.tasks.conftest import HeardLog, Small

TINY = PretrainSettings(
    layers=1, width=32, heads=2, kv_heads=1, context_length=32, batch=8, tokens=8 * 32 * 12, learning_rate=1e-2
)


def test_it_trains_in_a_process_of_its_own_and_reports_every_step(small: Small, tmp_path: Path) -> None:
    out, log = tmp_path / "out", HeardLog()
    out.mkdir()
    metrics = pretrain((small.tokens,), small.tokenizer, TINY, out, tmp_path / "work", log)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "losses.parquet", "model.safetensors"]
    losses = pl.read_parquet(out / "losses.parquet")
    assert [(step, values["loss"]) for step, values in log.series] == list(
        zip(losses["step"], losses["loss"], strict=True)
    )
    assert metrics == {
        "steps": 12,
        "tokens_seen": 8 * 32 * 12,
        "weights": weights_in(load_config(out)),
        "final_loss": losses["loss"].tail(1).item(),
    }
    assert any("12 steps of 8" in line for line in log.lines)


def test_the_counted_weights_are_the_models(model: Artifact) -> None:
    from models.saved import load_model

    trained = load_model(model.path)
    assert weights_in(trained.config) == sum(parameter.numel() for parameter in trained.parameters())


def test_how_often_is_saved_is_no_part_of_the_key() -> None:
    assert "checkpoint_every" not in PretrainSettings().model_dump()


def test_the_embedding_has_a_row_for_every_token(small: Small) -> None:
    assert vocabulary_size(small.tokenizer) == 448


def test_an_impossible_shape_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="multiple of heads"):
        shape(PretrainSettings(width=30, heads=4), 100)
    with pytest.raises(UserError, match="multiple of kv_heads"):
        shape(PretrainSettings(heads=4, kv_heads=3), 100)


def test_a_corpus_without_shards_is_the_users_mistake(small: Small, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="nothing to train on"):
        pretrain((Artifact.of("tokenize", empty),), small.tokenizer, TINY, tmp_path, tmp_path / "work", StageLog())


def test_the_last_loss_is_a_mean_over_the_last_tenth(tmp_path: Path) -> None:
    pl.DataFrame({"loss": [float(i) for i in range(20)]}).write_parquet(tmp_path / "losses.parquet")
    assert mean_last_loss(tmp_path / "losses.parquet") == 18.5
