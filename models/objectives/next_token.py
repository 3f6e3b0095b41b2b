"""Every token is predicted from those before it (GPT); a trained model is judged by the bits that documents cost it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.objectives.surprise import Surprise, mean_surprise, nats_of_each
from models.order.batch import Batch, Drawn
from models.spec import FitSpec, TokenStream

if TYPE_CHECKING:
    from models.machine.hardware import Arithmetic
    from models.text.foreign import Model


def collate(drawn: Drawn, spec: FitSpec) -> Batch:
    """The windows as they are, with the token after each."""
    assert isinstance(spec.data, TokenStream)
    tokens_BT1 = torch.from_numpy(drawn.tokens)
    documents_BT = torch.from_numpy(drawn.documents()[:, :-1]) if spec.data.document_mask else None
    lengths_B = torch.full((len(tokens_BT1),), drawn.length)
    return Batch(tokens_BT1[:, :-1], tokens_BT1[:, 1:], lengths_B, None, documents_BT)


def loss(model: Model, batch: Batch, surprise: Surprise = mean_surprise) -> Tensor:
    """Mean cross entropy in nats over all B x T targets."""
    states_BTD = model(batch.tokens_BT, batch.documents_BT)
    return surprise(model, states_BTD.flatten(0, 1), batch.targets.flatten())


@torch.inference_mode()
def document_bits(
    model: Model,
    documents: Sequence[NDArray[np.int64]],
    first: int,
    precision: Arithmetic = "float32",
    batch: int = 8,
) -> NDArray[np.float64]:
    """Bits that the model needs to write each document; shape (documents,).

    Every token is predicted once: from the token `first` (what ends a document) at a document's beginning, else from
    what precedes it, at least half a context of it where the document is longer than the context.

    Args:
        model: a language model; runs where its weights are.
        documents: token ids, each ending with its end-of-document token; none empty.
        first: the token before the first.
        precision: of the products; the surprise is computed in float32.
        batch: sequences computed at once.
    """
    device = next(model.parameters()).device
    context = model.config.context_length
    pieces: list[tuple[int, NDArray[np.int64], int]] = []  # document, tokens, how many of its targets are new
    for number, document in enumerate(documents):
        tokens = np.concatenate(([first], document))
        done = 0  # targets that earlier pieces predict
        while done < document.size:
            begin = max(0, done - context // 2)
            end = min(begin + context, document.size)
            pieces.append((number, tokens[begin : end + 1], end - done))
            done = end
    pieces.sort(key=lambda piece: piece[1].size)
    bits = np.zeros(len(documents))
    for start in range(0, len(pieces), batch):
        group = pieces[start : start + batch]
        longest = group[-1][1].size
        tokens_BT = torch.zeros((len(group), longest), dtype=torch.int64)
        new_BT = torch.zeros((len(group), longest - 1), dtype=torch.bool)
        for row, (_, tokens, new) in enumerate(group):
            tokens_BT[row, : tokens.size] = torch.from_numpy(tokens)
            new_BT[row, tokens.size - 1 - new : tokens.size - 1] = True
        tokens_BT, new_BT = tokens_BT.to(device), new_BT.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            nats_N = nats_of_each(model, model(tokens_BT[:, :-1])[new_BT], tokens_BT[:, 1:][new_BT])
        rows_N = new_BT.nonzero()[:, 0].cpu().numpy()
        per_row = np.bincount(rows_N, weights=nats_N.double().cpu().numpy(), minlength=len(group))
        for (number, _, _), nats in zip(group, per_row, strict=True):
            bits[number] += nats / np.log(2)
    return bits
