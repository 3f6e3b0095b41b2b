"""A trained model as a folder: config.json and model.safetensors, ours or Hugging Face's. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from models.folder import load_config
from models.foreign import Foreign, Model, load_foreign, save_foreign
from models.hub import load_hub_model
from models.spec import HubModel
from models.transformer import Transformer


def save_model(folder: Path, model: Model, weights: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors; equal weights give equal bytes.

    Our transformer is written under its own names, another architecture as the folder that `transformers` loads.

    Args:
        folder: exists.
        model: gives the shape.
        weights: as in its state_dict; perhaps gathered from several devices.
    """
    if isinstance(model, Foreign):
        save_foreign(folder, model, dict(weights))
        return
    save_config(folder, model)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / "model.safetensors"
    )


def save_config(folder: Path, model: Model) -> None:
    """Write config.json alone: what the folder of a trunk needs beside its checkpoint."""
    if isinstance(model, Foreign):
        model.hub.config.save_pretrained(folder)
    else:
        (folder / "config.json").write_text(json.dumps(model.config.model_dump(), indent=2) + "\n")


def load_model(folder: Path) -> Model:
    """The model that `save_model` or `transformers` wrote, on the CPU, in float32.

    Raises ValueError when there is none that can be used here (models/folder.py, models/foreign.py).
    """
    config = load_config(folder)
    if isinstance(config, HubModel):
        return load_foreign(folder, config)
    if "model_type" in json.loads((folder / "config.json").read_bytes()):
        return load_hub_model(folder)
    model = Transformer(config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model
