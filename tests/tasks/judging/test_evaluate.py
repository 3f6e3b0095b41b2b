"""Evaluation: bits per byte over held-out documents, with honest intervals, the same on every run."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.judging.evaluate import EvaluateSettings, evaluate
from tasks.training.starting_model import StartingModel
from tests.tasks.conftest import Small

SETTINGS = EvaluateSettings(documents=30, prompts=("The", "Return"), sample_tokens=10)


def run(small: Small, model: Artifact, out: Path, settings: EvaluateSettings = SETTINGS) -> dict[str, int | float]:
    out.mkdir()
    return evaluate((small.tokens,), small.tokenizer, model, StartingModel(), settings, out, StageLog())


def test_training_lowers_the_bits_per_byte(small: Small, model: Artifact, tmp_path: Path) -> None:
    metrics = run(small, model, tmp_path / "out")
    assert metrics["bits_per_byte_low"] < metrics["bits_per_byte"] < metrics["bits_per_byte_high"]
    assert metrics["bits_per_byte_high"] < metrics["bits_per_byte_before"]
    assert metrics["documents"] == 30


def test_an_untrained_model_needs_what_a_guess_needs(small: Small, model: Artifact, tmp_path: Path) -> None:
    everything = SETTINGS.model_copy(update={"documents": 10**6})
    metrics = run(small, model, tmp_path / "out", everything)
    heldout = pl.concat(
        [pl.read_ipc(shard.read_bytes()) for shard in sorted(small.tokens.path.glob("heldout-*.arrow"))]
    )
    tokens, size = heldout["tokens"].list.len().to_numpy().sum(), heldout["bytes"].to_numpy().sum()
    guess = 8.807 * tokens / size  # log2 of the 448 rows
    assert metrics["documents"] == heldout.height
    assert metrics["bits_per_byte_before"] == pytest.approx(guess, rel=0.02)


def test_sources_add_up_to_all(small: Small, model: Artifact, tmp_path: Path) -> None:
    run(small, model, tmp_path / "out")
    after = json.loads((tmp_path / "out" / "evaluation.json").read_text())["after"]
    parts = after["sources"].values()
    assert sum(part["bytes"] for part in parts) == after["all"]["bytes"]
    assert sum(part["documents"] for part in parts) == after["all"]["documents"] == 30
    bits = sum(part["bytes"] * part["bits_per_byte"] for part in parts)
    assert bits == pytest.approx(after["all"]["bytes"] * after["all"]["bits_per_byte"])


def test_two_evaluations_are_equal_files(small: Small, model: Artifact, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(small, model, tmp_path / name)
    for file in ("evaluation.json", "samples.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    samples = json.loads((tmp_path / "one" / "samples.json").read_text())
    assert [sample["prompt"] for sample in samples] == ["The", "Return"]
    assert all(sample["text"] for sample in samples)


def test_without_held_out_documents_there_is_nothing_to_judge(small: Small, model: Artifact, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    none = Artifact.of("tokenize", tmp_path / "none")
    with pytest.raises(UserError, match="nothing to evaluate on"):
        evaluate((none,), small.tokenizer, model, StartingModel(), SETTINGS, tmp_path, StageLog())


def test_a_masked_model_is_judged_by_its_hidden_tokens_and_fills_gaps(
    wordpiece: Small, masked_model: Artifact, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"gaps": ("Return the ___ of the list.",)})
    metrics = run(wordpiece, masked_model, tmp_path / "out", settings)
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert evaluation["measure"] == "bits_per_hidden_token"
    assert metrics["bits_per_hidden_token"] == evaluation["after"]["all"]["bits_per_hidden_token"]
    assert metrics["bits_per_hidden_token_high"] < metrics["bits_per_hidden_token_before"]
    assert metrics["bits_per_hidden_token_before"] == pytest.approx(8.807, rel=0.02)  # log2 of the 448 rows
    parts = evaluation["after"]["sources"].values()
    assert sum(part["hidden_tokens"] for part in parts) == evaluation["after"]["all"]["hidden_tokens"]
    (sample,) = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert sample["prompt"] == "Return the ___ of the list."
    assert re.fullmatch(r"(\S+ \d+%, ){3}\S+ \d+%", sample["text"])


def test_a_sentence_without_one_gap_is_refused() -> None:
    with pytest.raises(ValidationError, match="each sentence has one gap, written ___"):
        EvaluateSettings(gaps=("nothing to fill",))
