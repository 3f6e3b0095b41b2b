"""Hidden tokens are predicted from all the others (BERT); a trained model is judged by the bits that they cost it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.objectives.surprise import Surprise, mean_surprise, nats_of_each
from models.order.batch import Batch, Drawn
from models.order.masking import hide
from models.spec import FitSpec, MaskedToken, TokenStream

if TYPE_CHECKING:
    from models.machine.hardware import Arithmetic
    from models.text.foreign import Model


def collate(drawn: Drawn, spec: FitSpec) -> Batch:
    """The windows with hidden tokens (models/order/masking.py), which are the targets."""
    data = spec.data
    assert isinstance(data, TokenStream)
    assert isinstance(data.objective, MaskedToken)
    documents = drawn.documents()
    ends_BT = documents[:, 1:] != documents[:, :-1]
    hidden = hide(drawn.tokens[:, :-1], ends_BT, drawn.positions_B, data.objective, spec.model.vocabulary, spec.seed)
    seen_BT, picked_BK, targets_BK = map(torch.from_numpy, hidden)
    documents_BT = torch.from_numpy(documents[:, :-1]) if data.document_mask else None
    return Batch(seen_BT, targets_BK, torch.full((len(seen_BT),), drawn.length), picked_BK, documents_BT)


def loss(model: Model, batch: Batch, surprise: Surprise = mean_surprise) -> Tensor:
    """Mean cross entropy in nats over the B x K hidden tokens.

    Only their logits are computed: at 15 in 100, a step of .9 times the length (4 layers, width 256, 8,192 words).
    """
    assert batch.picked_BK is not None, "a batch of masked windows says which tokens are predicted"
    hidden_BTD = model(batch.tokens_BT, batch.documents_BT)
    return surprise(model, at_positions(hidden_BTD, batch.picked_BK), batch.targets.flatten())


def at_positions(states_BTD: Tensor, picked_BK: Tensor) -> Tensor:
    """The states at each window's positions, window by window, shape (B x K, D).

    By whole rows: `gather` would want an index for every single feature.
    """
    B, T, _ = states_BTD.shape
    rows_BK = picked_BK + T * torch.arange(B, device=picked_BK.device)[:, None]
    return states_BTD.flatten(0, 1).index_select(0, rows_BK.flatten())


@torch.inference_mode()
def masked_bits(
    model: Model,
    documents: Sequence[NDArray[np.int64]],
    mask_token: int,
    rate: float = 0.15,
    seed: int = 0,
    precision: Arithmetic = "float32",
    batch: int = 8,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Bits that the model needs for each document's hidden tokens, and how many they are; both of shape (documents,).

    The sum of the first over the sum of the second is bits per hidden token: to be compared between models of one
    tokenizer and one rate only (no likelihood of the text follows from it). A document is cut into pieces of
    context_length, and of each piece round(rate x size) tokens, at least one, are hidden, always by the mask. Which
    ones hangs on the seed and the document's place alone, so that all models are asked the same.

    Args:
        model: a bidirectional language model; runs where its weights are.
        documents: token ids; none empty.
        mask_token: the id that hides a token.
        rate: share of the tokens to hide.
        seed: of their choice.
        precision: of the products; the surprise is computed in float32.
        batch: sequences computed at once.
    """
    device = next(model.parameters()).device
    context = model.config.context_length
    pieces: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []  # document, tokens, hidden positions
    for number, document in enumerate(documents):
        generator = np.random.default_rng((seed, number))
        for begin in range(0, document.size, context):
            tokens = document[begin : begin + context]
            hidden = generator.choice(tokens.size, max(1, round(rate * tokens.size)), replace=False)
            pieces.append((number, tokens, hidden))
    pieces.sort(key=lambda piece: piece[1].size)
    bits, counts = np.zeros(len(documents)), np.zeros(len(documents), dtype=np.int64)
    for start in range(0, len(pieces), batch):
        group = pieces[start : start + batch]
        lengths_B = torch.tensor([tokens.size for _, tokens, _ in group])
        true_BT = torch.zeros((len(group), int(lengths_B.max())), dtype=torch.int64)
        hidden_BT = torch.zeros_like(true_BT, dtype=torch.bool)
        for row, (_, tokens, hidden) in enumerate(group):
            true_BT[row, : tokens.size] = torch.from_numpy(tokens)
            hidden_BT[row, hidden] = True
        true_BT, hidden_BT, lengths_B = true_BT.to(device), hidden_BT.to(device), lengths_B.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            states_BTD = model(true_BT.masked_fill(hidden_BT, mask_token), lengths_B=lengths_B)
            nats_N = nats_of_each(model, states_BTD[hidden_BT], true_BT[hidden_BT])
        rows_N = hidden_BT.nonzero()[:, 0].cpu().numpy()
        per_row = np.bincount(rows_N, weights=nats_N.double().cpu().numpy(), minlength=len(group))
        for (number, _, hidden), nats in zip(group, per_row, strict=True):
            bits[number] += nats / np.log(2)
            counts[number] += hidden.size
    return bits, counts
