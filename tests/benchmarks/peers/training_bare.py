"""The plainest loop over our model, loss and optimizer: what the real training process is measured against.

    python -m tests.benchmarks.peers.training_bare SHAPE.json

No Lightning, no loader (windows from memory), no checkpoint, no record: whole loss compiled, bf16 autocast, fused
AdamW, norm clipped, and nothing waits for a GPU between the steps. `deterministic` in the shape turns deterministic
algorithms on.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.learn.optimizers import optimizer_for
from models.machine.hardware import keep_large_blocks
from models.objectives.losses import loss_for
from models.order.batch import Batch
from models.spec import FitSpec, ModelConfig
from models.text.transformer import fresh


def main(shape: dict[str, Any]) -> None:
    spec = FitSpec.model_validate(shape["spec"])
    assert isinstance(spec.model, ModelConfig)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(shape["threads"])
        keep_large_blocks()
    torch.use_deterministic_algorithms(shape.get("deterministic", False))
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model = fresh(spec.model, spec.seed).to(device)
    optimizer = optimizer_for(model, spec.optimisation)
    plain = loss_for(spec)
    loss = torch.compile(plain, dynamic=False) if shape["compile"] else plain
    windows = np.load(shape["windows"], mmap_mode="r")
    rows, losses, began = 0, [], 0.0
    for step in range(shape["warm"] + shape["steps"]):
        for _ in range(shape["accumulate"]):
            piece = torch.from_numpy(windows[rows : rows + shape["batch"]].astype(np.int64))
            rows += shape["batch"]
            lengths_B = torch.full((shape["batch"],), spec.model.context_length)
            if device.type == "cuda":
                piece = piece.pin_memory().to(device, non_blocking=True)
                lengths_B = lengths_B.to(device)
            with torch.autocast(device.type, torch.bfloat16):
                value = loss(model, Batch(piece[:, :-1], piece[:, 1:], lengths_B)) / shape["accumulate"]
            value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optimisation.clip, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(value.detach())
        if step == shape["warm"] - 1:
            float(value)  # waits for a GPU
            began = time.perf_counter()
    float(losses[-1])
    tokens = shape["steps"] * shape["accumulate"] * shape["batch"] * shape["context_length"]
    facts = {
        "tokens_per_second": round(tokens / (time.perf_counter() - began), 1),
        "losses": [round(float(losses[at]) * shape["accumulate"], 3) for at in (0, -1)],
        "weights": sum(weights.numel() for weights in model.parameters()),
    }
    if device.type == "cuda":
        facts["peak_memory"] = torch.cuda.max_memory_allocated()
    print(json.dumps(facts))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
