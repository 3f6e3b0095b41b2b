"""Tokens a second of training, against transformers' Trainer, nanoGPT's loop and litgpt: same windows, same sizes.

    python -m tests.benchmarks.training [--shape small|large] [--rounds 5]

Every side is a whole process that starts, compiles from a warm Inductor cache (an unmeasured short round fills it),
takes some steps to warm up and is timed over the steps after them; two threads each. All read the windows that our
process would read, in its order, from one file. As many key as query heads, so that GPT-2's block multiplies as much as
the others'. Tokens are random, with frequencies that fall as 1 / rank. Exits with 1 where a goal is missed.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from models.order.loader import Steps
from models.spec import FitSpec, Machine, ModelConfig, Optimisation, Source, TokenStream
from tests.benchmarks.sides import ENVIRONMENTS, SELDOM_S, Side, compare, environment

PROJECT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).parent / "peers"
THREADS, BATCH = 2, 8

REQUIREMENTS = {
    "transformers": ["transformers==5.23.0", "torch==2.15.0", "accelerate==1.15.0", "numpy==2.4.6"],
    "litgpt": ["litgpt==0.5.13", "torch==2.15.0", "numpy==2.4.6", "tensorboard==2.20.0"],
}


@dataclass(frozen=True)
class Shape:
    """A model and how long each side is watched."""

    layers: int
    width: int
    heads: int
    context_length: int
    warm: int
    steps: int
    vocabulary: int = 8192

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.sized(
            vocabulary=self.vocabulary,
            context_length=self.context_length,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            kv_heads=self.heads,
        )


SHAPES = {"small": Shape(4, 256, 4, 256, warm=20, steps=80), "large": Shape(8, 512, 8, 512, warm=2, steps=6)}


@dataclass(frozen=True)
class Goal:
    """How many times the tokens a second of another side a side must reach."""

    side: str
    against: str
    times: float


GOALS = (
    Goal("nightschool", "Trainer, defaults", 2.2),
    Goal("nightschool", "Trainer, bf16 and compile", 1.1),
    Goal("nightschool", "nanoGPT's loop", 1.7),
    Goal("nightschool", "litgpt", 1.1),
    Goal("supervised task", "bare loop", 0.98),
)


def training(folder: Path, model: ModelConfig, steps: int, name: str) -> FitSpec:
    """Our side's spec; the checkpoints are where two minutes put them."""
    shards = (folder / "random.arrow",)
    return FitSpec(
        model=model,
        data=TokenStream(sources=(Source(name="random", shards=shards),), digest="random"),
        optimisation=Optimisation(learning_rate=6e-4, warmup_steps=steps, cooldown_steps=0),
        steps=steps,
        batch=BATCH,
        seed=0,
        machine=Machine(precision="bf16", compile=True, devices=1),
        work=folder / f"{name}-work",
        out=folder / f"{name}-out",
        cache=ENVIRONMENTS / "nightschool",
    )


def write_tokens(folder: Path, model: ModelConfig, windows: int) -> None:
    """random.arrow: one document, long enough for so many windows."""
    chance = np.random.default_rng(0).random(windows * model.context_length + 1)
    tokens = (model.vocabulary**chance).astype(np.uint16)  # the rank of a draw from frequencies like 1 / rank
    table = pa.table({"tokens": pa.array([tokens], type=pa.list_(pa.uint16()))})
    with pa.OSFile(str(folder / "random.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def write_windows(folder: Path, spec: FitSpec) -> None:
    """windows.npy: what the spec's steps read, in order, one row of T + 1 tokens a window."""
    rows = [
        np.concatenate((batch.tokens_BT.numpy(), batch.targets.numpy()[:, -1:]), axis=1)
        for batch in Steps(spec).loader(0, spec.steps)
    ]
    np.save(folder / "windows.npy", np.concatenate(rows).astype(np.uint16))


def sides(folder: Path, shape: Shape) -> dict[str, Side]:
    """Every competitor, with a shape file and an output folder of its own."""
    model = shape.model
    sizes = model.model_dump(
        include={"vocabulary", "context_length", "layers", "width", "heads", "kv_heads", "head_width", "mlp_width"}
        | {"rope_base", "norm_epsilon"}
    )
    made: dict[str, Side] = {}

    def side(name: str, python: str, arguments: list[str], ours: bool, **facts: object) -> None:
        file = folder / f"{len(made)}.json"
        spec = training(folder, model, shape.warm + shape.steps, str(len(made)))
        common = {"windows": str(folder / "windows.npy"), "out": str(folder / f"{len(made)}-peer"), "batch": BATCH}
        clock = {"accumulate": 1, "warm": shape.warm, "steps": shape.steps, "threads": THREADS}
        choice: dict[str, object] = {"compile": True, "precision": "bf16-mixed", **facts}
        file.write_text(json.dumps(sizes | common | clock | choice | {"spec": spec.model_dump(mode="json")}))
        variables = {
            "PYTHONPATH": str(PROJECT) if ours else "",
            "OMP_NUM_THREADS": str(THREADS),
            "TORCHINDUCTOR_CACHE_DIR": str(ENVIRONMENTS / "inductor"),
        }
        made[name] = Side(name, [python, *arguments, str(file)], variables)

    def peer(script: str) -> list[str]:
        return [str(PEERS / f"training_{script}.py")]

    own = ["-m", "tests.benchmarks.peers.training_nightschool"]
    side("nightschool", sys.executable, [*own, "fit"], ours=True)
    side("supervised task", sys.executable, [*own, "task"], ours=True)
    side("bare loop", sys.executable, ["-m", "tests.benchmarks.peers.training_bare"], ours=True)
    hugging_face = environment("training-transformers", REQUIREMENTS["transformers"])
    side("Trainer, defaults", hugging_face, peer("transformers"), ours=False, compile=False, precision="32-true")
    side("Trainer, bf16 and compile", hugging_face, peer("transformers"), ours=False)
    side("nanoGPT's loop", sys.executable, peer("gpt2"), ours=False)
    side("litgpt", environment("training-litgpt", REQUIREMENTS["litgpt"]), peer("litgpt"), ours=False)
    return made


def speed(side: Side) -> float:
    """Median tokens a second over the rounds."""
    return float(np.median([run.facts["tokens_per_second"] for run in side.runs]))


def show(found: dict[str, Side], title: str) -> int:
    """Print every side's figures and the goals; the number of goals missed."""
    figures = Table("side", "tokens/s", "first and last loss", "weights", title=title)
    for name, side in found.items():
        facts: dict[str, Any] = side.facts
        losses = " ".join(f"{loss:.3f}" for loss in facts.get("losses", ()))
        figures.add_row(name, f"{speed(side):,.0f}", losses, f"{facts.get('weights', 0):,}")
    goals = Table("side", "against", "times", "goal", "met")
    missed = 0
    for goal in GOALS:
        if {goal.side, goal.against} <= found.keys():
            times = speed(found[goal.side]) / speed(found[goal.against])
            missed += times < goal.times
            met = "yes" if times >= goal.times else "NO"
            goals.add_row(goal.side, goal.against, f"{times:.3f}", f"{goal.times:g}", met)
    Console().print(figures, goals)
    return missed


def main(name: str, rounds: int, only: list[str] | None) -> int:
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        steps = shape.warm + shape.steps
        write_tokens(folder, shape.model, BATCH * steps)
        write_windows(folder, training(folder, shape.model, steps, "reads"))
        found = {side.name: side for side in sides(folder, shape).values() if not only or side.name in only}
        compare(list(found.values()), rounds=1, look_s=SELDOM_S)  # fills the Inductor cache
        for side in found.values():
            side.runs.clear()
        compare(list(found.values()), rounds, SELDOM_S)
    size = f"L{shape.layers} d{shape.width} T{shape.context_length}, batch {BATCH}, {THREADS} threads"
    return int(show(found, f"Training, {size}") > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of the sides to run; default all")
    asked = parser.parse_args()
    sys.exit(main(asked.shape, asked.rounds, asked.only))
