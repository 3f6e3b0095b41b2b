"""The weights before the first step: fresh from the seed, or those of a model that was trained before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from models.named import ByName
from models.spec import FitSpec, ForeignConfig, ModelConfig, TokenStream
from models.text.foreign import empty_foreign, load_foreign
from models.text.model_folder import load_model
from models.text.transformer import Transformer, fresh

if TYPE_CHECKING:
    from models.text.foreign import Model


def initial_model(spec: FitSpec) -> Model:
    """The weights before the first step: fresh from the seed, overlaid by the starting point's where it has them.

    A trunk's weights are its checkpoint's, laid over these by who restores that; only the shape is made here.

    Raises ValueError when the starting point is not of the spec's shape or cannot be loaded
    (models/text/model_folder.py).
    """
    model = FIRST[spec.model.family](spec, spec.model)
    if spec.weights == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("classifier")
    return model


def untrained(config: ModelConfig | ForeignConfig, folder: Path, start: Path | None, seed: int) -> Model:
    """The model in `folder`, which has this config, before its training: with the weights in the folder `start`, or
    ones that have learnt nothing."""
    return UNTRAINED[config.family](config, folder, start, seed)


def _hub_model(spec: FitSpec, config: ForeignConfig) -> Model:
    if spec.start is None:
        raise ValueError(f"A {config.architecture} has no fresh weights here: name the folder of one to start from.")
    if spec.weights == "head":
        raise ValueError(f"A {config.architecture} has no classification head here: train all of it.")
    if spec.start.trunk:
        return empty_foreign(spec.start.folder, config)
    model = load_foreign(spec.start.folder, config)
    if isinstance(spec.data, TokenStream) and spec.data.document_mask and not model.keeps_documents_apart():
        raise ValueError(
            f"A {config.architecture} cannot keep the documents of a window of {config.context_length} tokens apart: "
            "set document_mask to false."
        )
    return model


def _our_model(spec: FitSpec, config: ModelConfig) -> Model:
    model = fresh(config, spec.seed)
    if spec.start and not spec.start.trunk:
        start = load_model(spec.start.folder)
        # Neither the head nor the length of a window is a matter of the weights below it: positions are computed.
        changed = {"classes": config.classes, "context_length": config.context_length}
        if not isinstance(start, Transformer) or start.config.model_copy(update=changed) != config:
            raise ValueError(
                f"The model in {spec.start.folder} has the shape {start.config}, and {config} is asked for."
            )
        weights = start.state_dict()
        model.load_state_dict(
            {name: weights.get(name, fresh_value) for name, fresh_value in model.state_dict().items()}
        )
    return model


def _our_untrained(config: ModelConfig, folder: Path, start: Path | None, seed: int) -> Model:
    model = fresh(config, seed)
    if start:
        model.load_state_dict(load_model(start).state_dict())
    return model


def _hub_untrained(config: ForeignConfig, folder: Path, start: Path | None, seed: int) -> Model:
    if start:
        return load_foreign(start, config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return empty_foreign(folder, config)


FIRST: ByName[Callable[[FitSpec, Any], Model]] = {"transformer": _our_model, "foreign": _hub_model}
"""What makes the weights before the first step, by family."""

UNTRAINED: ByName[Callable[[Any, Path, Path | None, int], Model]] = {
    "transformer": _our_untrained,
    "foreign": _hub_untrained,
}
"""What makes the model that a trained one was before, by family."""
