"""Which tokens see which, and the one attention that all blocks compute.

Documents that share a window are kept apart by a mask, not by cutting the window: rotary positions count only
differences, so a document's states are those it would have alone (a test says so to the last digits), and every
window stays full. The mask makes a step 1.07 times as long where attention is plain matrix products, which compute all
T x T weights anyway (eager bf16, 4 layers, width 256, 4 windows of 256, processor time of one core); torch's flash
kernels lose by it the half that a causal triangle lets them skip.

Suffixes as in models/transformer.py; 1 stands where all heads share.
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

    `visible_B1TT`, where given, says all; else `causal` decides between the past and everything.

    On a CPU torch's flash kernel computes bf16 without the processor's bf16 units: plain matrix products take 14 ms
    where it takes 25 (forward and backward, B 16, H 4, T 256, K 64, 2 cores). They hold all T x T weights, hence for
    short T only.
    """
    B, H, T, K = q_BHTK.shape
    G = k_BGTK.shape[1]
    R = H // G
    if q_BHTK.device.type != "cpu" or q_BHTK.dtype != torch.bfloat16 or T > 512:
        if visible_B1TT is None:
            return F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, is_causal=causal, enable_gqa=R > 1)
        # Shared heads are repeated here: no fused CUDA kernel takes both them and a mask.
        k_BHTK, v_BHTK = (x_BGTK.repeat_interleave(R, dim=1) if R > 1 else x_BGTK for x_BGTK in (k_BGTK, v_BGTK))
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, attn_mask=visible_B1TT)
    q_BGNK = q_BHTK.reshape(B, G, R * T, K) / math.sqrt(K)
    scores_BGRTT = (q_BGNK @ k_BGTK.transpose(-1, -2)).view(B, G, R, T, T)
    if visible_B1TT is not None:
        scores_BGRTT = scores_BGRTT.masked_fill(~visible_B1TT[:, :, None], -torch.inf)
    elif causal:
        scores_BGRTT = scores_BGRTT + torch.full((T, T), -torch.inf, dtype=scores_BGRTT.dtype).triu(1)
    weights_BGRTT = scores_BGRTT.softmax(-1, dtype=torch.float32).to(v_BGTK.dtype)
    return (weights_BGRTT.view(B, G, R * T, T) @ v_BGTK).view(B, H, T, K)
