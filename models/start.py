"""The weights before the first step: fresh from the seed, or those of a model that was trained before."""

from __future__ import annotations

from models.checkpoint import load_model
from models.spec import FitSpec
from models.transformer import Transformer, fresh


def initial_model(spec: FitSpec) -> Transformer:
    """The weights before the first step: fresh from the seed, overlaid by the starting point's where it has them."""
    model = fresh(spec.model, spec.seed)
    if spec.start:
        start = load_model(spec.start.folder)
        if (shape := start.config.model_copy(update={"classes": spec.model.classes})) != spec.model:
            raise ValueError(f"The model in {spec.start.folder} has the shape {shape}, and {spec.model} is asked for.")
        weights = start.state_dict()
        model.load_state_dict(
            {name: weights.get(name, fresh_value) for name, fresh_value in model.state_dict().items()}
        )
    if spec.trained == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("classifier")
    return model
