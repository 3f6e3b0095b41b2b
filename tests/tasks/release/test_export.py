"""The exported folder: transformers loads it as any other, and computes the same."""

from pathlib import Path
from typing import Any

import torch

from models.text.model_folder import load_model
from tasks.core.artifact import Artifact
from tasks.core.stage import StageLog
from tasks.release.export import export
from tasks.training.starting_model import StartingModel
from tests.tasks.conftest import Small


def test_transformers_loads_model_and_tokenizer_and_computes_the_same(
    small: Small, model: Artifact, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tasks.tokens.vocabulary import load_tokenizer

    metrics = export(model, small.tokenizer, StartingModel(), tmp_path, StageLog())
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "Return the number of items in the list."
    prompt = tokenizer(text, return_tensors="pt")
    assert prompt["input_ids"][0].tolist() == load_tokenizer(small.tokenizer).encode(text).ids
    ours = load_model(model.path)
    with torch.no_grad():
        difference = ours.logits(ours(prompt["input_ids"])) - theirs(prompt["input_ids"]).logits
    assert difference.abs().max() <= 1e-4
    assert metrics["weights"] == sum(parameter.numel() for parameter in theirs.parameters())
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    assert (theirs.config.eos_token_id, theirs.generation_config.pad_token_id) == (0, 1)
    generated = theirs.generate(**prompt, max_new_tokens=5)
    assert generated.shape[1] > prompt["input_ids"].shape[1]


def test_the_card_names_what_the_model_was_made_of(small: Small, model: Artifact, tmp_path: Path) -> None:
    export(model, small.tokenizer, StartingModel(), tmp_path, StageLog())
    card = (tmp_path / "README.md").read_text()
    assert f"pretrain/{model.digest}" in card and f"tokenizer/{small.tokenizer.digest}" in card


def test_two_exports_are_equal_files(small: Small, model: Artifact, tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export(model, small.tokenizer, StartingModel(), tmp_path / name, StageLog())
        digests.add(Artifact.of("export", tmp_path / name).digest)
    assert len(digests) == 1


def test_a_masked_model_fills_masks_in_transformers_as_here(
    wordpiece: Small, masked_model: Artifact, tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    export(masked_model, wordpiece.tokenizer, StartingModel(), tmp_path, StageLog())
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer("Return the [MASK] of the list.", return_tensors="pt")["input_ids"]
    assert (tokens == 4).sum() == 1
    ours = load_model(masked_model.path)
    with torch.no_grad():
        difference = ours.logits(ours(tokens)) - theirs(tokens).logits
    assert difference.abs().max() <= 1e-4
    assert (theirs.config.architectures, theirs.config.mask_token_id) == (["EuroBertForMaskedLM"], 4)
    card = (tmp_path / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card and "A masked EuroBertForMaskedLM with" in card
