"""Our weights as a Hugging Face Qwen3 folder, and back: renaming, no arithmetic, so logits agree.

Writes the files itself instead of building a `transformers` model: importing that costs 4 s, and the format is plain
JSON and safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from models.spec import ModelConfig
from models.transformer import Transformer

_OUTSIDE = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
_IN_BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}


def names(config: ModelConfig) -> dict[str, str]:
    """Every weight of a language model of that shape: our name -> Qwen3's name."""
    blocks = {
        f"blocks.{layer}.{ours}": f"model.layers.{layer}.{theirs}"
        for layer in range(config.layers)
        for ours, theirs in _IN_BLOCK.items()
    }
    return _OUTSIDE | blocks


def hub_config(config: ModelConfig, end_token: int, pad_token: int) -> dict[str, Any]:
    """The content of Qwen3ForCausalLM's config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_token,
        "dtype": "float32",
        "eos_token_id": end_token,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "hidden_size": config.width,
        "initializer_range": 0.02,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.context_length,
        "model_type": "qwen3",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "pad_token_id": pad_token,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {"rope_theta": config.rope_base, "rope_type": "default"},
        "rope_theta": config.rope_base,  # where releases before 5 of transformers, and vLLM, look for it
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": config.vocabulary,
    }


def save_hub_model(folder: Path, model: Transformer, end_token: int, pad_token: int) -> None:
    """Write config.json, generation_config.json and model.safetensors of a language model."""
    weights = model.state_dict()
    renamed = {theirs: weights[ours].detach().cpu().contiguous() for ours, theirs in names(model.config).items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", hub_config(model.config, end_token, pad_token))
    generation = {"bos_token_id": end_token, "do_sample": True, "eos_token_id": end_token, "pad_token_id": pad_token}
    _write_json(folder / "generation_config.json", generation)


def load_hub_model(folder: Path) -> Transformer:
    """A Qwen3 folder as our model, in float32.

    Raises ValueError for an architecture or an option of Qwen3 that our model does not have.
    """
    described = json.loads((folder / "config.json").read_bytes())
    config = _our_config(folder, described)
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    model = Transformer(config)
    model.load_state_dict({ours: _find(weights, theirs, folder).float() for ours, theirs in names(config).items()})
    return model


def _our_config(folder: Path, described: Mapping[str, Any]) -> ModelConfig:
    rope = described.get("rope_parameters") or {}
    lacking = {
        "model_type": described.get("model_type") != "qwen3",
        "attention_bias": bool(described.get("attention_bias")),
        "tie_word_embeddings": not described.get("tie_word_embeddings"),
        "use_sliding_window": bool(described.get("use_sliding_window")),
        "hidden_act": described.get("hidden_act", "silu") != "silu",
        "rope_parameters": rope.get("rope_type", "default") != "default" or bool(described.get("rope_scaling")),
    }
    if unfit := [name for name, unlike in lacking.items() if unlike]:
        values = ", ".join(f"{name}: {described.get(name)!r}" for name in unfit)
        raise ValueError(f"The model in {folder} is no Qwen3 with tied embeddings and plain attention ({values}).")
    return ModelConfig(
        vocabulary=described["vocab_size"],
        context_length=described["max_position_embeddings"],
        layers=described["num_hidden_layers"],
        width=described["hidden_size"],
        heads=described["num_attention_heads"],
        kv_heads=described["num_key_value_heads"],
        head_width=described.get("head_dim") or described["hidden_size"] // described["num_attention_heads"],
        mlp_width=described["intermediate_size"],
        rope_base=rope.get("rope_theta") or described.get("rope_theta", 10_000.0),
        norm_epsilon=described["rms_norm_eps"],
    )


def _find(weights: Mapping[str, Tensor], name: str, folder: Path) -> Tensor:
    if name not in weights:
        raise ValueError(f"The model in {folder} lacks the weight {name}.")
    return weights[name]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
