"""Fine-tuning as a stage: the budget, the twin, and an accuracy over the whole test set."""

from pathlib import Path

import polars as pl
import pytest
from safetensors.numpy import load_file

from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.training.finetune import FinetuneSettings, finetune
from tests.tasks.conftest import Small

SETTINGS = FinetuneSettings(labels=30, epochs=8, batch=8, learning_rate=5e-3)


def run(small: Small, model: Artifact, folder: Path, settings: FinetuneSettings) -> tuple[dict[str, int | float], Path]:
    out = folder / "out"
    out.mkdir(parents=True)
    return finetune(small.examples, small.tokenizer, model, settings, out, folder / "work", StageLog()), out


def test_it_predicts_every_test_document_and_counts_right(small: Small, model: Artifact, tmp_path: Path) -> None:
    metrics, out = run(small, model, tmp_path, SETTINGS)
    predictions = pl.read_parquet(out / "predictions.parquet")
    test = pl.read_ipc((small.examples.path / "test.arrow").read_bytes())
    assert predictions["doc_id"].to_list() == test["doc_id"].to_list()
    assert predictions["label"].to_list() == test["label"].to_list()
    right = (predictions["label"] == predictions["predicted"]).sum()
    assert metrics["accuracy"] == right / test.height
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    assert (metrics["labels"], metrics["steps"], metrics["test"]) == (30, 30, test.height)


def test_the_twin_differs_in_its_first_weights_alone(small: Small, model: Artifact, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"weights": "head", "epochs": 1})
    twin = settings.model_copy(update={"start": "scratch"})
    run(small, model, tmp_path / "tuned", settings)
    run(small, model, tmp_path / "twin", twin)
    tuned, scratch = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("tuned", "twin"))
    base = load_file(model.path / "model.safetensors")
    assert {name: array.shape for name, array in tuned.items()} == {name: a.shape for name, a in scratch.items()}
    assert all((tuned[name] == array).all() for name, array in base.items())
    assert not (scratch["embedding.weight"] == base["embedding.weight"]).all()


def test_more_labels_than_there_are_is_the_users_mistake(small: Small, model: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="A budget of 100000 labels"):
        run(small, model, tmp_path, SETTINGS.model_copy(update={"labels": 100_000}))


def test_a_tokenizer_of_another_model_is_the_users_mistake(small: Small, model: Artifact, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    config = (model.path / "config.json").read_text().replace('"vocabulary": 448', '"vocabulary": 300')
    (narrow / "config.json").write_text(config)
    with pytest.raises(UserError, match="use the tokenizer that the model was trained with"):
        run(small, Artifact.of("pretrain", narrow), tmp_path, SETTINGS)


def test_a_masked_model_is_fine_tuned_as_any_other(wordpiece: Small, masked_model: Artifact, tmp_path: Path) -> None:
    metrics, out = run(wordpiece, masked_model, tmp_path, SETTINGS)
    predictions = pl.read_parquet(out / "predictions.parquet")
    assert metrics["accuracy"] == (predictions["label"] == predictions["predicted"]).sum() / predictions.height
    losses = pl.read_parquet(out / "losses.parquet")["loss"]
    assert losses.tail(5).to_numpy().mean() < losses.head(5).to_numpy().mean()
    assert metrics["steps"] == len(losses) == 30


def test_a_model_of_another_architecture_is_the_users_mistake(small: Small, tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text(
        '{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 448, "n_positions": 64}'
    )
    with pytest.raises(UserError, match="is a gpt2, and classification is learnt by our own transformer only"):
        run(small, Artifact.of("pretrain", tmp_path / "gpt2"), tmp_path, SETTINGS)
