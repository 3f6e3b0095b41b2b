"""Steps of GPT-2 training as nanoGPT does them, written anew from its published settings; needs torch and numpy only.

    python training_gpt2.py SHAPE.json

GPT-2's block (Radford et al. 2019: LayerNorm before, learned positions, GELU MLP of 4 widths) without biases and
dropout, tied embedding, scaled_dot_product_attention, the model compiled, AdamW (0.9, 0.95) fused on GPUs only, norm
clipped at 1, gradients set to None, bf16 autocast on a GPU, loss read every tenth step.
"""

import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Causal attention, then MLP, each after a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.before_mlp = nn.LayerNorm(width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q, k, v = (
            part.view(B, T, self.heads, D // self.heads).transpose(1, 2)
            for part in self.query_key_value(self.before_attention(x_BTD)).split(D, dim=2)
        )
        y_BHTK = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.attention_out(y_BHTK.transpose(1, 2).contiguous().view(B, T, D))
        return x_BTD + self.mlp_out(F.gelu(self.mlp_in(self.before_mlp(x_BTD))))


class Gpt2(nn.Module):
    """Tokens and targets to the mean cross entropy."""

    def __init__(self, vocabulary: int, context_length: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context_length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, weights in self.named_parameters():
            if weights.ndim == 2:
                writes = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(weights, 0.0, 0.02 / math.sqrt(2 * layers) if writes else 0.02)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = self.tokens(tokens_BT) + self.positions(positions_T)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = F.linear(self.norm(x_BTD), self.tokens.weight)
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def main(shape: dict[str, Any]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(shape["threads"])
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    names = ("vocabulary", "context_length", "layers", "width", "heads")
    model = Gpt2(**{name: shape[name] for name in names}).to(device)
    matrices = [weights for weights in model.parameters() if weights.ndim >= 2]
    vectors = [weights for weights in model.parameters() if weights.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=device.type == "cuda")
    forward = torch.compile(model) if shape["compile"] else model
    windows = np.load(shape["windows"], mmap_mode="r")
    half = torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
    rows, ended, losses = 0, [], {}
    for step in range(shape["warm"] + shape["steps"]):
        for _ in range(shape["accumulate"]):
            batch = torch.from_numpy(windows[rows : rows + shape["batch"]].astype(np.int64))
            rows += shape["batch"]
            if device.type == "cuda":
                batch = batch.pin_memory().to(device, non_blocking=True)
            with half:
                loss = forward(batch[:, :-1], batch[:, 1:]) / shape["accumulate"]
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0:
            losses[step] = float(loss) * shape["accumulate"]
        if device.type == "cuda" and step in (shape["warm"] - 1, shape["warm"] + shape["steps"] - 1):
            torch.cuda.synchronize()
        ended.append(time.perf_counter())
    tokens = shape["steps"] * shape["accumulate"] * shape["batch"] * shape["context_length"]
    facts = {
        "tokens_per_second": round(tokens / (ended[-1] - ended[shape["warm"] - 1]), 1),
        "losses": [round(losses[0], 3), round(losses[max(losses)], 3)],
        "weights": sum(weights.numel() for weights in model.parameters()),
    }
    if device.type == "cuda":
        facts["peak_memory"] = torch.cuda.max_memory_allocated()
    print(json.dumps(facts))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
