"""What a trained model makes of documents: the surprise of their tokens, and their classes. Nothing learns here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from models.machine.hardware import Arithmetic
    from models.order.loader import Examples
    from models.text.foreign import Model
    from models.text.transformer import Transformer

_LOGITS = 1 << 21
"""Logits held at once: 8 MB."""


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
            logits_BC = model.classify(model(tokens_BT, lengths_B=lengths_B), lengths_B)
        yield indices, logits_BC.float().argmax(dim=1).cpu().numpy()


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
            nats_N = _nats(model, model(tokens_BT[:, :-1])[new_BT], tokens_BT[:, 1:][new_BT])
        rows_N = new_BT.nonzero()[:, 0].cpu().numpy()
        per_row = np.bincount(rows_N, weights=nats_N.double().cpu().numpy(), minlength=len(group))
        for (number, _, _), nats in zip(group, per_row, strict=True):
            bits[number] += nats / np.log(2)
    return bits


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
            nats_N = _nats(model, states_BTD[hidden_BT], true_BT[hidden_BT])
        rows_N = hidden_BT.nonzero()[:, 0].cpu().numpy()
        per_row = np.bincount(rows_N, weights=nats_N.double().cpu().numpy(), minlength=len(group))
        for (number, _, hidden), nats in zip(group, per_row, strict=True):
            bits[number] += nats / np.log(2)
            counts[number] += hidden.size
    return bits, counts


def _nats(model: Model, states_ND: Tensor, targets_N: Tensor) -> Tensor:
    """The surprise of each target, in float32; a few rows of logits at a time.

    Blocks of over 32 MB are mapped and faulted in anew whenever they are used: with all logits of 16 x 256 tokens at
    once a pass took 1.5 times as long in float32 (8,192 words, one core).
    """
    rows = max(1, _LOGITS // model.config.vocabulary)
    parts = zip(states_ND.split(rows), targets_N.split(rows), strict=True)
    return torch.cat(
        [F.cross_entropy(model.logits(states).float(), targets, reduction="none") for states, targets in parts]
    )
