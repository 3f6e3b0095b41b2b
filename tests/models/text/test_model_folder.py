"""A model's folder gives back the model, and equal models are equal files."""

from pathlib import Path

import pytest
import torch

from models.text.convert import save_hub_model
from models.text.model_folder import load_model, save_model
from models.text.transformer import Transformer, fresh
from tests.models.shards import TINY


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_loaded_as_it_was_and_equal_models_are_equal_files(
    tmp_path: Path, attention: str, tied: bool
) -> None:
    model = fresh(TINY.model_copy(update={"attention": attention, "tied": tied}), 0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, model, model.state_dict())
    loaded = load_model(tmp_path / "one")
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_exported_folder_is_loaded_as_our_model(tmp_path: Path) -> None:
    model = fresh(TINY, 0)
    save_hub_model(tmp_path, model, end_token=0, pad_token=1)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Transformer) and loaded.config == TINY
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
