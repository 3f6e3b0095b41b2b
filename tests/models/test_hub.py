"""The way to Hugging Face and back: the same logits as Qwen3, and a clear no to what is not ours."""

import json
from pathlib import Path

import pytest
import torch

from models.hub import load_hub_model, save_hub_model
from models.spec import ModelConfig
from models.transformer import Transformer, fresh

CONFIG = ModelConfig.sized(vocabulary=300, context_length=64, layers=3, width=64, heads=4, kv_heads=2)


def uneven(config: ModelConfig) -> Transformer:
    """Weights far from their first values, the norms' included."""
    model = fresh(config, 3)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def test_transformers_computes_our_logits(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = uneven(CONFIG)
    save_hub_model(tmp_path, model, end_token=0, pad_token=1)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    assert not report["missing_keys"] - {"lm_head.weight"} and not report["unexpected_keys"]
    tokens_BT = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = model.logits(model(tokens_BT)) - theirs(tokens_BT).logits
    assert difference.abs().max() <= 1e-4


def test_a_folder_of_transformers_becomes_our_model(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=200,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=16,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 5e4},
        )
    )
    theirs.save_pretrained(tmp_path)
    ours = load_hub_model(tmp_path)
    tokens_BT = torch.randint(0, 200, (2, 32))
    with torch.no_grad():
        difference = ours.logits(ours(tokens_BT)) - theirs(tokens_BT).logits
    assert difference.abs().max() <= 1e-4


def test_there_and_back_changes_nothing(tmp_path: Path) -> None:
    model = uneven(CONFIG)
    save_hub_model(tmp_path, model, end_token=0, pad_token=1)
    back = load_hub_model(tmp_path)
    assert back.config == CONFIG
    weights = model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in back.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value"), [("model_type", "llama"), ("tie_word_embeddings", False), ("attention_bias", True)]
)
def test_another_architecture_is_refused(tmp_path: Path, name: str, value: object) -> None:
    save_hub_model(tmp_path, fresh(CONFIG, 0), end_token=0, pad_token=1)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(ValueError, match=name):
        load_hub_model(tmp_path)
