"""What a trained model makes of documents: the surprise of their tokens, and their classes. Nothing learns here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from models.data import Examples
from models.hardware import Arithmetic
from models.transformer import Transformer


@torch.inference_mode()
def predicted_classes(
    model: Transformer, examples: Examples, precision: Arithmetic, batch: int = 64
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Batches of example indices and their likeliest classes, both of shape (b,), until all are judged.

    Batched by length, so that short documents are not padded to long ones (half the time of batching as they come).
    """
    device = next(model.parameters()).device
    lengths = np.array([examples.read(index).size for index in range(examples.n)])
    by_length = np.argsort(lengths, kind="stable")
    for start in range(0, examples.n, batch):
        indices = by_length[start : start + batch]
        read = examples.batch(indices)
        tokens_BT, lengths_B = read.tokens_BT.to(device), read.lengths_B.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits_BC = model.classify(model(tokens_BT), lengths_B)
        yield indices, logits_BC.float().argmax(dim=1).cpu().numpy()


@torch.inference_mode()
def document_bits(
    model: Transformer, documents: Sequence[NDArray[np.int64]], first: int, batch: int = 16
) -> NDArray[np.float64]:
    """Bits that the model needs to write each document, float32 arithmetic; shape (documents,).

    Every token is predicted once: from the token `first` (what ends a document) at a document's beginning, else from
    what precedes it, at least half a context of it where the document is longer than the context.

    Args:
        model: a language model; runs where its weights are.
        documents: token ids, each ending with its end-of-document token; none empty.
        first: the token before the first.
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
        logits_NV = model.logits(model(tokens_BT[:, :-1])[new_BT])
        nats_N = F.cross_entropy(logits_NV, tokens_BT[:, 1:][new_BT], reduction="none")
        rows_N = new_BT.nonzero()[:, 0].cpu().numpy()
        per_row = np.bincount(rows_N, weights=nats_N.double().cpu().numpy(), minlength=len(group))
        for (number, _, _), nats in zip(group, per_row, strict=True):
            bits[number] += nats / np.log(2)
    return bits
