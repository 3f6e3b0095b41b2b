"""Models from elsewhere: gone on from with their own tokenizer, and one sentence where something does not fit."""

import json
import shutil
from pathlib import Path

import pytest

from models.spec import ForeignConfig
from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.judging.evaluate import EvaluateSettings, evaluate
from tasks.release.export import export
from tasks.training.pretrain import pretrain, shape
from tasks.training.settings import PretrainSettings
from tasks.training.starting_model import fingerprints
from tests.tasks.conftest import HeardLog, Small


@pytest.fixture(scope="module")
def gpt2(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random GPT-2 with the small world's tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=448, n_positions=32, n_embd=32, n_layer=1, n_head=2)).save_pretrained(folder)
    shutil.copy(small.tokenizer.path / "tokenizer.json", folder)
    return folder


def settings(start: Path, **others: object) -> PretrainSettings:
    given = {"context_length": 32, "batch": 8, "tokens": 8 * 32 * 20, "learning_rate": 1e-2}
    return PretrainSettings.model_validate({"start": start, **given, **others})


def test_a_model_from_elsewhere_learns_is_judged_and_leaves_as_what_it_was(
    small: Small, gpt2: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folders = {name: tmp_path / name for name in ("model", "untouched", "evaluation", "export")}
    for folder in folders.values():
        folder.mkdir()
    tokens, log = (small.tokens,), HeardLog()
    asked = settings(gpt2, continues=False)
    pretrain(tokens, small.tokenizer, None, asked, folders["model"], tmp_path / "work", tmp_path / "cache", log)
    model = Artifact.of("pretrain", folders["model"])
    judging = EvaluateSettings(documents=20, prompts=("The",), sample_tokens=3)
    judged = evaluate(tokens, small.tokenizer, model, asked.starting_model, judging, folders["evaluation"], StageLog())
    assert judged["bits_per_byte"] < judged["bits_per_byte_before"]
    original = Artifact.of("pretrain", gpt2)
    untouched = evaluate(
        tokens, small.tokenizer, original, asked.starting_model, judging, folders["untouched"], StageLog()
    )
    assert judged["bits_per_byte_before"] == untouched["bits_per_byte"]  # what it knew, not what a guess knows
    export(model, small.tokenizer, asked.starting_model, folders["export"], StageLog())
    assert json.loads((folders["export"] / "config.json").read_text())["architectures"] == ["GPT2LMHeadModel"]
    assert not (folders["export"] / "losses.parquet").exists()
    theirs = AutoModelForCausalLM.from_pretrained(folders["export"])
    assert sum(parameter.numel() for parameter in theirs.parameters()) == sum(
        parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(gpt2).parameters()
    )


def test_a_changed_file_is_another_request(gpt2: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(gpt2, copy)
    before = settings(copy).model_dump(mode="json")
    assert settings(copy).model_dump(mode="json") == before
    assert before["start_files"] == settings(gpt2).start_files
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "initializer_range": 0.5}))
    assert settings(copy).model_dump(mode="json") != before


def test_the_shape_is_the_models(small: Small, gpt2: Path) -> None:
    assert shape(settings(gpt2), small.tokenizer) == ForeignConfig(
        architecture="gpt2", attention="causal", vocabulary=448, context_length=32
    )


def test_windows_longer_than_its_positions_are_the_users_mistake(small: Small, gpt2: Path) -> None:
    with pytest.raises(UserError, match="has 32 positions, and context_length is 64: shorten it"):
        shape(settings(gpt2, context_length=64), small.tokenizer)


def test_a_tokenizer_of_another_model_is_the_users_mistake(
    small: Small, wordpiece: Small, gpt2: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"gives another id to .* than the model .*tokenizer: \{path: "):
        shape(settings(gpt2), wordpiece.tokenizer)
    narrow = tmp_path / "narrow"
    shutil.copytree(gpt2, narrow)
    (narrow / "config.json").write_text((narrow / "config.json").read_text().replace("448", "300"))
    with pytest.raises(UserError, match=r"has 400 tokens and the model in .* only 300"):
        shape(settings(narrow), small.tokenizer)


def test_a_folder_without_a_model_is_the_users_mistake(gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no model in .*: `start` is a folder with config.json and"):
        fingerprints(tmp_path)
    (tmp_path / "config.json").write_bytes((gpt2 / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match="There is no model in"):
        settings(tmp_path).for_key()


def test_what_no_rule_derives_for_it_must_be_given(small: Small, gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not know a gpt2: give all three"):
        asked = settings(gpt2, learning_rate=None)
        pretrain((small.tokens,), small.tokenizer, None, asked, tmp_path, tmp_path, tmp_path, StageLog())
