"""The way to Hugging Face and back: the same logits as Qwen3 and EuroBERT, and a clear no to what is not ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.spec import ForeignConfig, ModelConfig
from models.text.convert import load_hub_model, save_hub_model
from models.text.identify import load_config
from models.text.transformer import Transformer, fresh

CONFIG = ModelConfig.sized(vocabulary=300, context_length=64, layers=3, width=64, heads=4, kv_heads=2)
KINDS = [(attention, tied) for attention in ("causal", "bidirectional") for tied in (True, False)]


def shaped(attention: str, tied: bool) -> ModelConfig:
    return ModelConfig.model_validate(CONFIG.model_dump() | {"attention": attention, "tied": tied})


def uneven(config: ModelConfig) -> Transformer:
    """Weights far from their first values, the norms' included."""
    model = fresh(config, 3)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def saved(folder: Path, model: Transformer) -> Path:
    save_hub_model(folder, model, end_token=0, pad_token=1, mask_token=2)
    return folder


def random_tokens(vocabulary: int, T: int) -> Tensor:
    return torch.randint(0, vocabulary, (2, T), generator=torch.Generator().manual_seed(1))


def largest_difference(ours: Transformer, theirs: Any, tokens_BT: Tensor) -> float:
    with torch.no_grad():
        return float((ours.logits(ours(tokens_BT)) - theirs.eval()(tokens_BT).logits).abs().max())


@pytest.mark.parametrize(("attention", "tied"), KINDS)
def test_transformers_computes_our_logits(tmp_path: Path, attention: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    model = uneven(shaped(attention, tied))
    auto: Any = AutoModelForCausalLM if attention == "causal" else AutoModelForMaskedLM
    theirs, report = auto.from_pretrained(saved(tmp_path, model), output_loading_info=True)
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if attention == "causal" else "EuroBertForMaskedLM")
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in model.parameters())
    assert largest_difference(model, theirs, random_tokens(300, 64)) <= 1e-5


@pytest.mark.parametrize(("attention", "tied"), KINDS)
@pytest.mark.parametrize("shard", ["1GB", "40KB"])
def test_a_folder_of_transformers_becomes_our_model(tmp_path: Path, attention: str, tied: bool, shard: str) -> None:
    from transformers import EuroBertConfig, EuroBertForMaskedLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    numbers: dict[str, Any] = {
        "vocab_size": 200,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "max_position_embeddings": 32,
        "pad_token_id": 1,
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
    }
    causal = attention == "causal"
    theirs: Any = Qwen3ForCausalLM(Qwen3Config(**numbers)) if causal else EuroBertForMaskedLM(EuroBertConfig(**numbers))
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "40KB")
    ours = load_hub_model(tmp_path)
    assert (ours.config.attention, ours.config.tied) == (attention, tied)
    assert ours.config.norm_epsilon == theirs.config.rms_norm_eps
    assert largest_difference(ours, theirs, random_tokens(200, 32)) <= 1e-5


def test_padding_is_as_invisible_as_in_eurobert(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    model = uneven(shaped("bidirectional", tied=True))
    theirs = AutoModelForMaskedLM.from_pretrained(saved(tmp_path, model))
    tokens_BT, lengths_B = random_tokens(300, 20), torch.tensor([20, 7])
    seen_BT = torch.arange(20) < lengths_B[:, None]
    with torch.no_grad():
        ours_BTV = model.logits(model(tokens_BT, lengths_B=lengths_B))
        theirs_BTV = theirs(tokens_BT, attention_mask=seen_BT.long()).logits
    assert (ours_BTV - theirs_BTV)[seen_BT].abs().max() <= 1e-5


@pytest.mark.parametrize(("attention", "tied"), KINDS)
def test_there_and_back_changes_nothing(tmp_path: Path, attention: str, tied: bool) -> None:
    model = uneven(shaped(attention, tied))
    back = load_hub_model(saved(tmp_path, model))
    assert back.config == model.config
    weights, again = model.state_dict(), back.state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_weights_in_bf16_are_read_as_float32(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = saved(tmp_path, uneven(CONFIG)) / "model.safetensors"
    rounded = {name: weight.bfloat16() for name, weight in load_file(path).items()}
    save_file(rounded, path)
    weight = load_hub_model(tmp_path).embedding.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, rounded["model.embed_tokens.weight"].float())


def test_defaults_left_out_are_the_architectures(tmp_path: Path) -> None:
    path = saved(tmp_path, fresh(shaped("bidirectional", tied=False), 0)) / "config.json"
    config = json.loads(path.read_text())
    for name in ("head_dim", "rms_norm_eps", "rope_theta", "rope_parameters", "tie_word_embeddings"):
        del config[name]
    path.write_text(json.dumps(config))
    there = load_config(tmp_path)
    assert isinstance(there, ModelConfig)
    assert (there.head_width, there.norm_epsilon, there.rope_base, there.tied) == (16, 1e-5, 10_000.0, False)


@pytest.mark.parametrize(
    ("attention", "name", "value"),
    [
        ("causal", "model_type", "llama"),
        ("causal", "attention_bias", True),
        ("causal", "use_sliding_window", True),
        ("causal", "layer_types", ["full_attention", "sliding_attention"]),
        ("causal", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("bidirectional", "mlp_bias", True),
        ("bidirectional", "hidden_act", "gelu"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, attention: str, name: str, value: object) -> None:
    path = saved(tmp_path, fresh(shaped(attention, tied=True), 0)) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=name):
        load_hub_model(tmp_path)
    assert isinstance(load_config(tmp_path), ForeignConfig)


def test_a_lacking_weight_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, fresh(CONFIG, 0)) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match=r"lacks 1 of its weights, such as lm_head\.weight"):
        load_hub_model(tmp_path)


def test_an_index_that_names_a_missing_file_says_so(tmp_path: Path) -> None:
    saved(tmp_path, fresh(CONFIG, 0))
    index = {"weight_map": {"lm_head.weight": "../../model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model-00001-of-00002\.safetensors cannot be read"):
        load_hub_model(tmp_path)


def test_a_bidirectional_model_is_not_saved_without_its_mask(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give mask_token"):
        save_hub_model(tmp_path, fresh(shaped("bidirectional", tied=True), 0), end_token=0, pad_token=1)
