"""A trained model as a folder: config.json and model.safetensors, ours or Hugging Face's. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from models.named import ByName
from models.text.convert import load_hub_model
from models.text.foreign import load_foreign, save_foreign
from models.text.identify import load_config
from models.text.transformer import Transformer

if TYPE_CHECKING:
    from models.spec import ModelConfig
    from models.text.foreign import Foreign, Model


def save_model(folder: Path, model: Model, weights: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors; equal weights give equal bytes.

    Our transformer is written under its own names, another architecture as the folder that `transformers` loads.

    Args:
        folder: exists.
        model: gives the shape.
        weights: as in its state_dict; perhaps gathered from several devices.
    """
    SAVED[model.config.family](folder, model, weights)


def save_config(folder: Path, model: Model) -> None:
    """Write config.json alone: what the folder of a trunk needs beside its checkpoint."""
    DESCRIBED[model.config.family](folder, model)


def load_model(folder: Path) -> Model:
    """The model that `save_model` or `transformers` wrote, on the CPU, in float32.

    Raises ValueError when there is none that can be used here (models/text/identify.py, models/text/foreign.py).
    """
    config = load_config(folder)
    return LOADED[config.family](folder, config)


def _save_ours(folder: Path, model: Transformer, weights: Mapping[str, Tensor]) -> None:
    save_config(folder, model)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / "model.safetensors"
    )


def _describe_ours(folder: Path, model: Transformer) -> None:
    (folder / "config.json").write_text(json.dumps(model.config.model_dump(), indent=2) + "\n")


def _describe_foreign(folder: Path, model: Foreign) -> None:
    model.hub.config.save_pretrained(folder)


def _load_ours(folder: Path, config: ModelConfig) -> Model:
    if "model_type" in json.loads((folder / "config.json").read_bytes()):
        return load_hub_model(folder)
    model = Transformer(config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


SAVED: ByName[Callable[[Path, Any, Mapping[str, Tensor]], None]] = {"transformer": _save_ours, "foreign": save_foreign}
"""What writes a model, by family."""

DESCRIBED: ByName[Callable[[Path, Any], None]] = {"transformer": _describe_ours, "foreign": _describe_foreign}
"""What writes a model's config.json, by family."""

LOADED: ByName[Callable[[Path, Any], Model]] = {"transformer": _load_ours, "foreign": load_foreign}
"""What reads a model, by family."""
