"""The one transformer that is trained, causal or bidirectional, equal to an architecture of Hugging Face weight by
weight (see models/text/convert.py).

Causal it is Qwen3: its parts are today's defaults (pre-norm RMSNorm, rotary positions, QK-norm, grouped heads, SwiGLU,
no biases), and `transformers`, vLLM and llama.cpp all load it. Bidirectional it is EuroBERT, which has the same parts
but for the QK-norm, so one code serves both and the export is exact; ModernBERT, the better known, would need
LayerNorm, GeGLU, a missing first norm and a head with a layer of its own. Own code because theirs is 1.3 to 1.5 times
slower in eager mode on a CPU (casts, copies for rotary halves, masks built per call).

Suffixes of tensors: B batch, T time, D width, H query heads, G key/value heads, K head width, M MLP width, V
vocabulary, C classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.spec import ModelConfig
from models.text.attention import attend, padding_apart, visible_within


class Norm(nn.RMSNorm):
    """RMSNorm whose weight takes on the input's type: under autocast a mixed pair falls off torch's fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise along the last axis; the result has the shape and the type of `x`."""
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Attention with grouped heads, rotary positions and, when causal, normalised queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.causal = config.attention == "causal"
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.head_width
        self.query = nn.Linear(config.width, config.heads * config.head_width, bias=False)
        self.key = nn.Linear(config.width, config.kv_heads * config.head_width, bias=False)
        self.value = nn.Linear(config.width, config.kv_heads * config.head_width, bias=False)
        self.out = nn.Linear(config.heads * config.head_width, config.width, bias=False)
        self.query_norm = Norm(config.head_width, eps=config.norm_epsilon) if config.qk_norm else nn.Identity()
        self.key_norm = Norm(config.head_width, eps=config.norm_epsilon) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, rotary_2T1K: Tensor, visible_B1TT: Tensor | None) -> Tensor:
        """Let each token gather what it sees, shape (B, T, D) -> (B, T, D).

        Args:
            rotary_2T1K: cosines and signed sines of the positions 0 .. T - 1.
            visible_B1TT: which keys (last axis) each query sees, bool; None: those up to it if causal, else all.
        """
        B, T, _ = x_BTD.shape
        q_BTHK = self.query(x_BTD).view(B, T, self.heads, self.head_width)
        k_BTGK = self.key(x_BTD).view(B, T, self.kv_heads, self.head_width)
        v_BTGK = self.value(x_BTD).view(B, T, self.kv_heads, self.head_width)
        q_BTHK = rotate(self.query_norm(q_BTHK), rotary_2T1K)
        k_BTGK = rotate(self.key_norm(k_BTGK), rotary_2T1K)
        y_BHTK = attend(
            q_BTHK.transpose(1, 2), k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2), self.causal, visible_B1TT
        )
        return self.out(y_BHTK.transpose(1, 2).reshape(B, T, self.heads * self.head_width))


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform each token by itself, shape (B, T, D) -> (B, T, D)."""
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nn.Module):
    """Attention, then MLP, each reading a normalised copy of the stream and adding to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config.width, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.mlp_norm = Norm(config.width, eps=config.norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, rotary_2T1K: Tensor, visible_B1TT: Tensor | None) -> Tensor:
        """Add attention and MLP to the stream, shape (B, T, D) -> (B, T, D); the arguments are those of `Attention`."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary_2T1K, visible_B1TT)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class Transformer(nn.Module):
    """Tokens to hidden states; `logits` and `classify` are the two ways to read them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width, eps=config.norm_epsilon)
        self.output = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)
        self.classifier = nn.Linear(config.width, config.classes) if config.classes else None
        self.register_buffer("rotary_2T1K", rotary_table(config), persistent=False)

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None = None, lengths_B: Tensor | None = None) -> Tensor:
        """Token ids, shape (B, T) with T <= context_length -> normalised hidden states, shape (B, T, D).

        Args:
            tokens_BT: right-padded where sequences differ in length.
            documents_BT: numbers of the tokens' documents; given, a token sees its own document only.
            lengths_B: tokens that are no padding; needed where padding is seen, that is, by a bidirectional model.
        """
        T = tokens_BT.shape[1]
        if self.config.context_length < T:
            raise ValueError(f"{T} tokens do not fit the model's context of {self.config.context_length}.")
        causal = self.config.attention == "causal"
        if lengths_B is not None and not causal:
            assert documents_BT is None, "windows of several documents have no padding"
            documents_BT = padding_apart(lengths_B, T)
        visible_B1TT = None if documents_BT is None else visible_within(documents_BT, causal)
        x_BTD = self.embedding(tokens_BT)
        rotary_2T1K = self.get_buffer("rotary_2T1K")[:, :T]
        for block in self.blocks:
            x_BTD = block(x_BTD, rotary_2T1K, visible_B1TT)
        return self.norm(x_BTD)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states, shape (..., D) -> logits of the next or of the hidden token, shape (..., V)."""
        return F.linear(hidden, self.embedding.weight if self.output is None else self.output.weight)

    def classify(self, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """States of right-padded sequences and their lengths -> class logits, shape (B, C), of the mean state."""
        assert self.classifier is not None, "a language model has no classes"
        valid_BT1 = (
            torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)[None, :, None] < lengths_B[:, None, None]
        )
        mean_BD = (hidden_BTD.float() * valid_BT1).sum(1) / lengths_B[:, None]
        return self.classifier(mean_BD)


def rotary_table(config: ModelConfig) -> Tensor:
    """Cosines and signed sines of every position, shape (2, T, 1, K); the sine's first half is negated for `rotate`."""
    half = torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width
    angles_TK = torch.outer(torch.arange(config.context_length, dtype=torch.float32), 1.0 / config.rope_base**half)
    cos_TK = torch.cat((angles_TK.cos(), angles_TK.cos()), dim=1)
    sin_TK = torch.cat((-angles_TK.sin(), angles_TK.sin()), dim=1)
    return torch.stack((cos_TK, sin_TK))[:, :, None, :]


def rotate(x_BTHK: Tensor, rotary_2T1K: Tensor) -> Tensor:
    """Turn each pair (i, i + K/2) of features by its position's angle (Su et al. 2021, in GPT-NeoX's layout)."""
    cos_T1K, sin_T1K = rotary_2T1K.to(x_BTHK.dtype)
    return x_BTHK * cos_T1K + x_BTHK.roll(x_BTHK.shape[-1] // 2, dims=-1) * sin_T1K


def fresh(config: ModelConfig, seed: int) -> Transformer:
    """A model with initial weights that depend on nothing but the config and the seed.

    Normal with deviation 0.02, and 0.02 / sqrt(2 layers) for the two matrices that write to the stream (Radford et
    al. 2019, GPT-2, section 2.3); norms are one, biases zero. Draws its own random numbers, the heads' last, so that an
    added head leaves all other weights as they were.
    """
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(
            model.named_parameters(), key=lambda item: item[0].startswith(("output", "classifier"))
        ):
            if parameter.ndim == 2:
                writes = name.endswith(("attention.out.weight", "mlp.down.weight"))
                parameter.normal_(0.0, 0.02 / math.sqrt(2 * config.layers) if writes else 0.02, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
    return model
