"""Which tokens see which, and the one attention that all blocks compute.

Documents that share a window are kept apart by a mask, not by cutting the window: rotary positions count only
differences, so a document's states are those it would have alone (a test says so to the last digits), and every
window stays full. The mask makes a step 1.07 times as long where attention is plain matrix products, which compute most
T x T weights anyway (eager bf16, 4 layers, width 256, 4 windows of 256, processor time of one core); torch's flash
kernels lose by it the half that a causal triangle lets them skip.

Suffixes as in models/text/transformer.py; 1 stands where all heads share.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def visible_within(documents_BT: Tensor, causal: bool) -> Tensor:
    """Numbers of the tokens' documents -> which key (last axis) each query sees, bool, shape (B, 1, T, T).

    Every token sees itself, so no row is empty. The triangle is part of it when `causal`.
    """
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return (same_BTT.tril() if causal else same_BTT)[:, None]


def padding_apart(lengths_B: Tensor, T: int) -> Tensor:
    """Lengths of right-padded sequences -> their padding as a document of its own, int64, shape (B, T)."""
    return (torch.arange(T, device=lengths_B.device) >= lengths_B[:, None]).long()


def positions_within(documents_BT: Tensor) -> Tensor:
    """Each token's place in its own document, from 0, int64, shape (B, T); for positions that are not rotary."""
    place_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    begins_BT = documents_BT.diff(dim=1, prepend=documents_BT[:, :1] - 1) != 0
    return place_T - (place_T * begins_BT).cummax(dim=1).values


def attend(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, causal: bool, visible_B1TT: Tensor | None = None) -> Tensor:
    """Attention of H query heads over G shared key/value heads, shape (B, H, T, K).

    `visible_B1TT`, where given, says all, and holds the triangle where `causal`; else `causal` decides between the past
    and everything.

    On a CPU torch's flash kernel computes bf16 without the processor's bf16 units: plain matrix products take 14 ms
    where it takes 22 (compiled, forward and backward, B 8, H 4 over G 2, T 256, K 64, 2 cores). They hold the weights
    of all pairs that they look at, hence for short T only. In float32 they shorten a compiled step by 2 % on AVX2, and
    are 8 more kernels to compile.
    """
    H, T = q_BHTK.shape[1:3]
    R = H // k_BGTK.shape[1]
    if q_BHTK.device.type != "cpu" or q_BHTK.dtype != torch.bfloat16 or T > 512:
        if visible_B1TT is None:
            return F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, is_causal=causal, enable_gqa=R > 1)
        # Shared heads are repeated here: no fused CUDA kernel takes both them and a mask.
        k_BHTK, v_BHTK = (x_BGTK.repeat_interleave(R, dim=1) if R > 1 else x_BGTK for x_BGTK in (k_BGTK, v_BGTK))
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, attn_mask=visible_B1TT)
    if not causal:
        return _products(q_BHTK, k_BGTK, v_BGTK, causal, visible_B1TT)
    # In two halves, since the first queries see none of the last keys: three quarters of the work. More parts gain no
    # more.
    halves = []
    for first, last in ((0, T // 2), (T // 2, T)):
        visible_B1SP = None if visible_B1TT is None else visible_B1TT[:, :, first:last, :last]
        halves.append(
            _products(q_BHTK[:, :, first:last], k_BGTK[:, :, :last], v_BGTK[:, :, :last], causal, visible_B1SP)
        )
    return torch.cat(halves, dim=2)


def _products(q_BHSK: Tensor, k_BGPK: Tensor, v_BGPK: Tensor, causal: bool, visible_B1SP: Tensor | None) -> Tensor:
    """Attention of the last S of P positions over all of them, by plain matrix products."""
    B, H, S, K = q_BHSK.shape
    G, P = k_BGPK.shape[1:3]
    R = H // G
    q_BGNK = q_BHSK.reshape(B, G, R * S, K) / math.sqrt(K)
    scores_BGRSP = (q_BGNK @ k_BGPK.transpose(-1, -2)).view(B, G, R, S, P)
    if visible_B1SP is not None:
        scores_BGRSP = scores_BGRSP.masked_fill(~visible_B1SP[:, :, None], -torch.inf)
    elif causal:
        scores_BGRSP = scores_BGRSP + torch.full((S, P), -torch.inf, dtype=scores_BGRSP.dtype).triu(P - S + 1)
    weights_BGRSP = scores_BGRSP.softmax(-1, dtype=torch.float32).to(v_BGPK.dtype)
    return (weights_BGRSP.view(B, G, R * S, P) @ v_BGPK).view(B, H, S, K)
