"""Draws text from a language model, token by token; no cache of keys, since only a few short samples are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from models.text.foreign import Model


@torch.inference_mode()
def continue_tokens(
    model: Model,
    prompt: Sequence[int],
    *,
    end_token: int,
    count: int,
    seed: int,
    temperature: float = 0.8,
    likeliest: int = 50,
) -> list[int]:
    """At most `count` further tokens, ending before `end_token`; equal seeds give equal tokens.

    Args:
        model: a language model; runs where its weights are.
        prompt: at least one token; only the last context_length count.
        end_token: what ends a document.
        count: most tokens to draw.
        seed: of the draws.
        temperature: divides the logits: below 1 sharpens.
        likeliest: draw among so many tokens only (Fan et al. 2018, "Hierarchical Neural Story Generation").
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    for _ in range(count):
        context_1T = torch.tensor([tokens[-model.config.context_length :]], device=device)
        logits_V = model.logits(model(context_1T)[0, -1]).float().cpu() / temperature
        top_L, ids_L = logits_V.topk(min(likeliest, logits_V.numel()))
        drawn = int(ids_L[torch.multinomial(top_L.softmax(0), 1, generator=generator)])
        if drawn == end_token:
            break
        tokens.append(drawn)
    return tokens[len(prompt) :]
