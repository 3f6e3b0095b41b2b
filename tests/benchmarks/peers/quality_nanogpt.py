"""The rival of tests/benchmarks/quality.py: GPT-2's block under AdamW and a cosine, as nanoGPT trains it.

Written anew from nanoGPT's published settings (its README and the defaults of its train.py): LayerNorm without bias,
learned positions, one product for query, key and value, GELU at four times the width, tied output layer, no dropout,
normal weights of deviation 0.02 (the two that write to the stream by another 1 / sqrt(2 layers)); AdamW 0.9/0.95 fused,
decay 0.1 of matrices, clipping at 1, linear warm-up, cosine to a tenth, windows at random offsets, torch.compile.

Arguments: the data's folder and a JSON object with precision, batch, steps, rate, warmup, seed.
"""

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.peers.quality_loop import Corpus, measure

LAYERS, WIDTH, HEADS = 4, 256, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        q, k, v = (
            part.view(B, T, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.qkv(self.norm1(x_BTD)).split(WIDTH, 2)
        )
        y_BHTK = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.out(y_BHTK.transpose(1, 2).reshape(B, T, WIDTH))
        return x_BTD + self.down(F.gelu(self.up(self.norm2(x_BTD))))


class GPT(nn.Module):
    def __init__(self, vocabulary: int, context: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(context, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                writes = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS) if writes else 0.02)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        x_BTD = self.tokens(tokens_BT) + self.positions(torch.arange(tokens_BT.shape[1]))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = F.linear(self.norm(x_BTD), self.tokens.weight)
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def rates(settings: dict[str, Any]) -> Callable[[int], float]:
    """Linear warm-up, then a cosine that ends at a tenth with the last step."""

    def rate(step: int) -> float:
        if step < settings["warmup"]:
            return settings["rate"] * (step + 1) / (settings["warmup"] + 1)
        done = (step - settings["warmup"]) / max(1, settings["steps"] - settings["warmup"])
        return settings["rate"] * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))

    return rate


def main(folder: str, described: str) -> None:
    settings = json.loads(described)
    corpus = Corpus(folder)
    torch.manual_seed(settings["seed"])
    model = GPT(corpus.vocabulary, corpus.context)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings["rate"], betas=(0.9, 0.95), fused=True)
    offsets = torch.Generator().manual_seed(settings["seed"])

    def batch(step: int) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(corpus.train) - corpus.context, (settings["batch"],), generator=offsets)
        return corpus.windows(starts.tolist())

    print(json.dumps(measure(model, model, optimizer, rates(settings), batch, corpus, settings)))


if __name__ == "__main__":
    main(*sys.argv[1:])
