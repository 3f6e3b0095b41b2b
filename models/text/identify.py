"""Which model lies in a folder, by its config.json alone: ours, one that ours can be, or another of Hugging Face's.

Light on purpose (no torch): the stages ask before anything is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from models.spec import ForeignConfig, ModelConfig

Attention = Literal["causal", "bidirectional"]

ARCHITECTURES: dict[Attention, str] = {"causal": "qwen3", "bidirectional": "eurobert"}
"""What our transformer is to Hugging Face (`model_type`)."""

_PLAIN: dict[str, dict[str, object]] = {
    "qwen3": {"attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "use_sliding_window": False},
    "eurobert": {"attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "mlp_bias": False},
}
"""Options that our transformer does not have, by the value that does without them (which is also their default)."""

OFFSET_POSITIONS = ("camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl")
"""Whose first position is the one after the padding id, which leaves so many fewer."""

_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""Where architectures say how many positions they have."""

_UNLIMITED = 1 << 30
"""Tokens; for architectures without a table of positions."""


def load_config(folder: Path, attention: Attention | None = None) -> ModelConfig | ForeignConfig:
    """The shape of the model in the folder: a ModelConfig where our transformer can hold it, else a ForeignConfig.

    Args:
        folder: with a config.json that `save_model` wrote or `transformers` did.
        attention: what it shall serve, next (causal) or masked tokens (bidirectional); None = as the folder says.

    Raises ValueError when there is none, or none that can be trained here.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"There is no model in {folder}: it has no config.json.")
    try:
        described = json.loads(path.read_bytes())
        if "model_type" not in described:
            return ModelConfig.model_validate(described)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} describes no model: {' '.join(str(error).split())}") from error
    try:
        return _described(folder, described, attention)
    except (AttributeError, ArithmeticError, KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} describes no model ({type(error).__name__}: {reason})") from error


def _described(folder: Path, described: Mapping[str, Any], attention: Attention | None) -> ModelConfig | ForeignConfig:
    serves = attention or _said(described)
    if serves is None:
        raise ValueError(
            f"The model in {folder} ({described.get('architectures')}) is neither a causal nor a masked language model."
        )
    if described["model_type"] == ARCHITECTURES[serves] and not lacking(described):
        return our_config(described)
    return _foreign_config(folder, described, serves)


def lacking(described: Mapping[str, Any]) -> list[str]:
    """The settings of a Qwen3 or EuroBERT that our transformer has not; empty = it can hold the model exactly."""
    rope = described.get("rope_parameters") or {}
    plain = _PLAIN.get(described["model_type"])
    if plain is None:
        return ["model_type"]
    unlike = [name for name, value in plain.items() if described.get(name, value) != value]
    if rope.get("rope_type", "default") != "default" or described.get("rope_scaling"):
        unlike.append("rope_parameters")
    if any(kind != "full_attention" for kind in described.get("layer_types") or ()):
        unlike.append("layer_types")
    if described.get("quantization_config"):
        unlike.append("quantization_config")
    return unlike


def our_config(described: Mapping[str, Any]) -> ModelConfig:
    """The shape that a Qwen3's or EuroBERT's config.json describes; what is left out has its default."""
    causal = described["model_type"] == ARCHITECTURES["causal"]
    rope = described.get("rope_parameters") or {}
    split = described["hidden_size"] // described["num_attention_heads"]
    return ModelConfig(
        attention="causal" if causal else "bidirectional",
        tied=bool(described.get("tie_word_embeddings", False)),
        vocabulary=described["vocab_size"],
        context_length=described["max_position_embeddings"],
        layers=described["num_hidden_layers"],
        width=described["hidden_size"],
        heads=described["num_attention_heads"],
        kv_heads=described.get("num_key_value_heads") or described["num_attention_heads"],
        head_width=described.get("head_dim", 128 if causal else split) or split,
        mlp_width=described["intermediate_size"],
        rope_base=rope.get("rope_theta") or described.get("rope_theta", 10_000.0),
        norm_epsilon=described.get("rms_norm_eps", 1e-6 if causal else 1e-5),
    )


def hub_config(config: ModelConfig, end_token: int, pad_token: int, mask_token: int | None) -> dict[str, Any]:
    """The content of config.json for Qwen3ForCausalLM, or for EuroBertForMaskedLM."""
    shared = {
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
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "pad_token_id": pad_token,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {"rope_theta": config.rope_base, "rope_type": "default"},
        "rope_theta": config.rope_base,  # where releases before 5 of transformers, and vLLM, look for it
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocabulary,
    }
    if config.attention == "causal":
        own: dict[str, Any] = {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "use_cache": True,
            "use_sliding_window": False,
        }
    else:
        own = {
            "architectures": ["EuroBertForMaskedLM"],
            "classifier_pooling": "mean",  # as our own classifier reads it
            "mask_token_id": mask_token,
            "mlp_bias": False,
            "model_type": "eurobert",
        }
    return shared | own


def _said(described: Mapping[str, Any]) -> Attention | None:
    """What the class that wrote the folder serves."""
    for name in described.get("architectures") or ():
        if name.endswith("ForMaskedLM"):
            return "bidirectional"
        if name.endswith(("ForCausalLM", "LMHeadModel")):
            return "causal"
    return None


def _foreign_config(folder: Path, described: Mapping[str, Any], attention: Attention) -> ForeignConfig:
    if "vocab_size" not in described or described.get("is_encoder_decoder"):
        raise ValueError(f"The {described['model_type']} in {folder} is no model of one sequence of tokens.")
    context = next((described[name] for name in _CONTEXT if described.get(name)), _UNLIMITED)
    if described["model_type"] in OFFSET_POSITIONS:
        context -= described.get("pad_token_id", 1) + 1
    return ForeignConfig(
        architecture=described["model_type"],
        attention=attention,
        vocabulary=described["vocab_size"],
        context_length=context,
    )
