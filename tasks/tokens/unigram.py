"""The Unigram vocabulary of a word list (Kudo 2018, section 3.2): pieces and their log probabilities.

Expectation maximisation over all segmentations of every word, then the pieces go whose loss hurts the likelihood
least, a quarter at a time. One thread adds in one order, so the same words give the same vocabulary; the trainer of
`tokenizers` adds in the order of a randomly seeded hash map and gives another in every process.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.kernels import njit

Numbers = NDArray[Any]

KEEP = 0.75  # of the pieces, at most, outlive a round
ROUNDS = 2  # of expectation maximisation between two cuts
LEAST = 1e-3  # occurrences that a piece is credited with: the logarithm of none is not a score


def learn_pieces(
    words: Sequence[str], counts: Sequence[int], pieces: Sequence[str], alphabet: Sequence[str], wanted: int
) -> list[tuple[str, float]]:
    """The best `wanted` pieces with their scores (natural logarithms), likeliest first.

    Args:
        words: what is cut into pieces, of characters of the alphabet only.
        counts: of each word.
        pieces: to choose from; includes the alphabet, which is kept.
        alphabet: at most 256 characters.
    """
    code = {ord(character): index for index, character in enumerate(alphabet)}
    text, starts = _coded(words, code)
    weights = np.asarray(counts, dtype=np.float64)
    kept = sorted(set(pieces))
    scores = np.full(len(kept), -math.log(len(kept)))
    while True:
        spelled, bounds = _coded(kept, code)
        trie, ends = _trie(spelled, bounds)
        for _ in range(ROUNDS):
            expected = np.maximum(_expected(text, starts, weights, trie, ends, scores), LEAST)
            scores = np.log(expected / expected.sum())
        if len(kept) <= wanted:
            break
        losses = expected * (scores - _without_itself(spelled, bounds, trie, ends, scores))
        losses[np.diff(bounds) == 1] = np.inf
        room = max(wanted, int(len(kept) * KEEP))
        chosen = np.sort(np.argsort(-losses, kind="stable")[:room])
        kept, scores = [kept[index] for index in chosen], scores[chosen]
    rounded = [round(float(score), 6) for score in scores]
    return sorted(zip(kept, rounded, strict=True), key=lambda item: (-item[1], item[0]))


def _coded(words: Sequence[str], code: dict[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All words one after the other as indices into the alphabet, and where each begins (and the last ends)."""
    starts = np.zeros(len(words) + 1, dtype=np.int64)
    np.cumsum([len(word) for word in words], out=starts[1:])
    return np.frombuffer("".join(words).translate(code).encode("latin-1"), dtype=np.uint8), starts


@njit(cache=True, nogil=True)
def _trie(text: Numbers, starts: Numbers) -> tuple[Numbers, Numbers]:
    """Child of each node by character (0: none), and the piece that ends at each node (-1: none)."""
    trie = np.zeros((1 + text.size, 256), dtype=np.int32)
    ends = np.full(1 + text.size, -1, dtype=np.int32)
    nodes = 1
    for piece in range(starts.size - 1):
        node = 0
        for place in range(starts[piece], starts[piece + 1]):
            if trie[node, text[place]] == 0:
                trie[node, text[place]] = nodes
                nodes += 1
            node = trie[node, text[place]]
        ends[node] = piece
    return trie[:nodes], ends[:nodes]


@njit(cache=True, nogil=True)
def _expected(
    text: Numbers, starts: Numbers, weights: Numbers, trie: Numbers, ends: Numbers, scores: Numbers
) -> Numbers:
    """How often each piece is expected over all segmentations: forward and backward sums over each word's lattice."""
    expected = np.zeros(scores.size)
    longest = np.max(np.diff(starts))
    forward, backward = np.empty(longest + 1), np.empty(longest + 1)
    for word in range(starts.size - 1):
        begin, length = starts[word], starts[word + 1] - starts[word]
        forward[: length + 1], backward[: length + 1] = -np.inf, -np.inf
        forward[0] = backward[length] = 0.0
        for left in range(length):
            node = 0
            for right in range(left, length):
                node = trie[node, text[begin + right]]
                if node == 0:
                    break
                if ends[node] >= 0:
                    forward[right + 1] = np.logaddexp(forward[right + 1], forward[left] + scores[ends[node]])
        for left in range(length - 1, -1, -1):
            node = 0
            for right in range(left, length):
                node = trie[node, text[begin + right]]
                if node == 0:
                    break
                piece = ends[node]
                if piece >= 0:
                    backward[left] = np.logaddexp(backward[left], backward[right + 1] + scores[piece])
                    share = forward[left] + scores[piece] + backward[right + 1] - forward[length]
                    expected[piece] += weights[word] * np.exp(share)
    return expected


@njit(cache=True, nogil=True)
def _without_itself(text: Numbers, starts: Numbers, trie: Numbers, ends: Numbers, scores: Numbers) -> Numbers:
    """Score of the best segmentation of each piece into other pieces; minus infinity for a single character."""
    found = np.full(starts.size - 1, -np.inf)
    best = np.empty(np.max(np.diff(starts)) + 1)
    for word in range(starts.size - 1):
        begin, length = starts[word], starts[word + 1] - starts[word]
        best[: length + 1] = -np.inf
        best[0] = 0.0
        for left in range(length):
            node = 0
            for right in range(left, length):
                node = trie[node, text[begin + right]]
                if node == 0:
                    break
                if ends[node] >= 0 and not (left == 0 and right == length - 1):
                    best[right + 1] = max(best[right + 1], best[left] + scores[ends[node]])
        found[word] = best[length]
    return found
