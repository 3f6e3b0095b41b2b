"""What a masked model puts in the place of a hidden token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from models.text.foreign import Model


@torch.inference_mode()
def likeliest_tokens(model: Model, tokens: Sequence[int], hidden: int, count: int) -> list[tuple[int, float]]:
    """The `count` likeliest tokens and their probabilities, the likeliest first.

    Args:
        model: a bidirectional language model; runs where its weights are.
        tokens: a sequence in which the mask stands at position `hidden`; at most context_length.
        hidden: the position to fill.
        count: answers wanted.
    """
    device = next(model.parameters()).device
    states_TD = model(torch.tensor([list(tokens)], device=device))[0]
    probabilities_V = model.logits(states_TD[hidden]).float().softmax(-1).cpu()
    found = probabilities_V.topk(min(count, probabilities_V.numel()))
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))
