"""Says which tokens of a window are hidden and what stands in their place: by hashing, without state.

Both depend on the seed, the window's position in the training and the token's place in it, and on nothing else, so a
resume, another number of workers or of ranks hides the same tokens, and every epoch hides others. The hash is
SplitMix64 read by counter (Steele, Lea and Flood, 2014); a window's K smallest hashes are its K hidden tokens, so that
every batch has one shape. Hiding each token by a coin instead would give K only on average, and a new shape every step.
16 windows of 1,024 tokens cost 0.4 ms.

The token that ends a document is not hidden, as BERT and its successors predict no special tokens: where packed
documents meet shows in the text on both sides, and a document mask would give the hidden end away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.order.order import GOLDEN, Indices, derived_seed, mix
from models.spec import MaskedToken

_STREAM = 0x6D61736B  # "mask": apart from the numbers of sources, whose orders derive from the same seed


class Hidden(NamedTuple):
    """Windows with hidden tokens."""

    tokens_BT: NDArray[np.int64]
    """What the model sees."""
    picked_BK: NDArray[np.int64]
    """Places that are predicted, ascending in each window."""
    targets_BK: NDArray[np.int64]
    """What truly stands there."""


def hidden_tokens(rate: float, length: int) -> int:
    """K: tokens of a window that are predicted; at least one."""
    return max(1, round(rate * length))


def hide(
    tokens_BT: NDArray[np.int64],
    ends_BT: NDArray[np.bool_],
    positions_B: Indices,
    settings: MaskedToken,
    vocabulary: int,
    seed: int,
) -> Hidden:
    """Hide K tokens of each window; the input stays as it is.

    Args:
        tokens_BT: true ids.
        ends_BT: where a document ends; hidden only in a window that has fewer than K other tokens.
        positions_B: of the windows in the training.
        settings: rate, corruption (Devlin et al. 2018, section 3.1) and the id of the mask.
        vocabulary: random tokens are drawn from all of it, as in BERT's own code.
        seed: of the training.
    """
    windows, length = tokens_BT.shape
    count = hidden_tokens(settings.rate, length)
    start = np.uint64(derived_seed(seed, _STREAM))
    keys_B1 = mix(positions_B * GOLDEN + start)[:, None]
    counters_T: Indices = np.arange(1, length + 1, dtype=np.uint64)
    hashes_BT = mix(keys_B1 + counters_T * GOLDEN)
    hashes_BT = (hashes_BT >> np.uint64(1)) | (ends_BT.astype(np.uint64) << np.uint64(63))
    picked_BK = np.sort(np.argpartition(hashes_BT, count - 1, axis=1)[:, :count], axis=1)
    targets_BK = np.take_along_axis(tokens_BT, picked_BK, axis=1)
    seen_BK = np.full_like(targets_BK, settings.mask_token)
    if settings.corruption == "bert":
        counters_BK = (np.uint64(length + 1) + np.uint64(2) * picked_BK.astype(np.uint64)) * GOLDEN
        kind_BK = mix(keys_B1 + counters_BK) % np.uint64(10)
        random_BK = mix(keys_B1 + counters_BK + GOLDEN) % np.uint64(vocabulary)
        seen_BK = np.where(kind_BK == 8, random_BK.astype(np.int64), np.where(kind_BK == 9, targets_BK, seen_BK))
    seen_BT = tokens_BT.copy()
    np.put_along_axis(seen_BT, picked_BK, seen_BK, axis=1)
    assert windows == len(positions_B)
    return Hidden(seen_BT, picked_BK, targets_BK)
