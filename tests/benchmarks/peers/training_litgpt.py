"""litgpt's own `pretrain.setup` on the benchmark's shape and windows: python training_litgpt.py SHAPE.json.

Qwen3's architecture in litgpt's words, its defaults otherwise: compiled (it always is), AdamW (fused on GPUs only, as
it asks), chunked cross entropy, a log line and a TensorBoard point every iteration where TensorBoard is installed.
The clock is read where its loop fetches the next batch, which is where the step before has ended.
"""

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litgpt import pretrain
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

# litgpt's model for training: its defaults but for the sizes and what makes the block Qwen3's.
QWEN3 = {
    "rotary_percentage": 1.0,
    "parallel_residual": False,
    "bias": False,
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
    "norm_qk": True,
}


class Measured(Exception):
    """The steps under the clock are done."""


class Windows(IterableDataset[Tensor]):
    """The prepared windows in order; notes when each piece was asked for and ends the training after the last."""

    def __init__(self, shape: dict[str, Any], timed: bool) -> None:
        self.shape, self.timed = shape, timed
        self.asked: list[float] = []

    def __iter__(self) -> Iterator[Tensor]:
        windows, size = np.load(self.shape["windows"], mmap_mode="r"), self.shape["batch"]
        for row in range(0, len(windows) - size + 1, size):
            if self.timed:
                self.asked.append(time.perf_counter())
            yield torch.from_numpy(windows[row : row + size].astype(np.int64))
        if self.timed:
            self.asked.append(time.perf_counter())
            raise Measured


class Prepared(DataModule):  # type: ignore[misc]  # litgpt is not there where types are checked
    """What `pretrain` asks for its batches."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        self.train, self.held = Windows(shape, timed=True), Windows(shape, timed=False)

    def connect(self, **_: Any) -> None: ...

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.train, batch_size=None, pin_memory=torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.held, batch_size=None)


def main(shape: dict[str, Any]) -> None:
    if not torch.cuda.is_available():
        torch.set_num_threads(shape["threads"])
    config = Config(
        name="shape",
        block_size=shape["context_length"],
        vocab_size=shape["vocabulary"],
        padded_vocab_size=shape["vocabulary"],
        n_layer=shape["layers"],
        n_head=shape["heads"],
        n_query_groups=shape["kv_heads"],
        n_embd=shape["width"],
        head_size=shape["head_width"],
        intermediate_size=shape["mlp_width"],
        norm_eps=shape["norm_epsilon"],
        rope_base=int(shape["rope_base"]),
        **QWEN3,
    )
    steps, T = shape["warm"] + shape["steps"], shape["context_length"]
    step_tokens = shape["batch"] * shape["accumulate"] * T
    data, never = Prepared(shape), 1 << 60
    shutil.rmtree(shape["out"], ignore_errors=True)
    train = TrainArgs(
        save_interval=never,
        log_interval=1,
        global_batch_size=shape["batch"] * shape["accumulate"],
        micro_batch_size=shape["batch"],
        max_tokens=2 * steps * step_tokens,
        max_norm=1.0,
        min_lr=6e-5,
        lr_warmup_steps=steps,
        tie_embeddings=True,
    )
    try:
        pretrain.setup(
            "shape",
            model_config=config,
            out_dir=Path(shape["out"]),
            precision=shape["precision"],
            data=data,
            train=train,
            eval=EvalArgs(interval=never, max_iters=1, initial_validation=False, final_validation=False),
            optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": 6e-4, "betas": (0.9, 0.95)}},
            devices=1,
            logger_name="tensorboard" if importlib.util.find_spec("tensorboard") else "csv",
        )
    except Measured:
        pass
    else:
        sys.exit("litgpt ended before the steps were done")
    began, ended = (data.train.asked[shape["accumulate"] * step] for step in (shape["warm"], steps))
    facts = {"tokens_per_second": round(shape["steps"] * step_tokens / (ended - began), 1)}
    if torch.cuda.is_available():
        facts["peak_memory"] = torch.cuda.max_memory_allocated()
    print()
    print(json.dumps(facts))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
