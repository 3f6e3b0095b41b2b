"""transformers' Trainer with Qwen3ForCausalLM on the benchmark's shape and windows.

    python training_transformers.py SHAPE.json

`precision` "32-true": TrainingArguments' defaults (float32, eager, fused AdamW, its own collator); "bf16-mixed" and
`compile`: bf16=True and torch_compile=True. Reporting to trackers, evaluation and saving are off, as in every other
side. The clock is read in a callback at each step's end.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


class Windows(Dataset[dict[str, Any]]):
    """The prepared windows; labels are the tokens themselves, since the model shifts them."""

    def __init__(self, path: str) -> None:
        self.windows = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        tokens = torch.from_numpy(self.windows[row, :-1].astype(np.int64))
        return {"input_ids": tokens, "labels": tokens}


class Clock(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.ended.append(time.perf_counter())


def main(shape: dict[str, Any]) -> None:
    torch.set_num_threads(shape["threads"])
    config = Qwen3Config(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["width"],
        intermediate_size=shape["mlp_width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_width"],
        max_position_embeddings=shape["context_length"],
        rms_norm_eps=shape["norm_epsilon"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    steps = shape["warm"] + shape["steps"]
    clock = Clock()
    shutil.rmtree(shape["out"], ignore_errors=True)
    arguments = TrainingArguments(
        output_dir=shape["out"],
        per_device_train_batch_size=shape["batch"],
        gradient_accumulation_steps=shape["accumulate"],
        max_steps=steps,
        learning_rate=6e-4,
        warmup_steps=steps,
        bf16=shape["precision"] == "bf16-mixed",
        torch_compile=shape["compile"],
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10,
        seed=0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Windows(shape["windows"]), callbacks=[clock])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    took_s = clock.ended[steps - 1] - clock.ended[shape["warm"] - 1]
    tokens = shape["steps"] * shape["batch"] * shape["accumulate"] * shape["context_length"]
    facts = {
        "tokens_per_second": round(tokens / took_s, 1),
        "losses": [round(float(losses[0]), 3), round(float(losses[-1]), 3)] if losses else [],
        "weights": sum(weights.numel() for weights in model.parameters()),
        "optimizer": type(trainer.optimizer).__name__,
    }
    print()
    print(json.dumps(facts))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
