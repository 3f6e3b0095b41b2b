"""How much training time does a given quality cost? Ours against AdamW with a tuned cosine on nanoGPT's shape.

    uv run python -m tests.benchmarks.quality             # three rounds: about 33 minutes on 2 idle cores
    uv run python -m tests.benchmarks.quality --tune      # both grids, a run a point: about half an hour

Both sides learn from the same 8k BPE tokens of ../shared/data/text/classic_books.parquet, with 4 layers of width 256,
windows of 256, 2 threads, compiled, and are judged by bits per byte of the same windows of held-out books. The target
is what the rival reaches at the end of its budget of 2 M tokens (its cosine ends there, so it gets there no earlier);
ours has a budget that was fixed beforehand and must reach it in the median over the rounds, each with its own seed.

Time is training time: compiling and judging are excluded for all sides.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from models.text.scaling_rules import derived, standard_model
from tasks.corpus.heldout import is_heldout
from tasks.tokens.pieces import END_OF_TEXT, learn
from tests.benchmarks.sides import SELDOM_S, Side, compare
from tests.conftest import SHARED_DATA

VOCABULARY, CONTEXT = 8192, 256
HELD_OUT, JUDGED = 0.1, 400
GOAL = 0.6
"""The share of the time of nanoGPT's own float32."""
RIVAL = {"batch": 8, "steps": 1000, "warmup": 100, "rate": 2e-3}
"""The best of `RIVAL_GRID`, at 2 M tokens: 1.984 bits a byte, against 2.012 at half and 2.077 at twice its rate."""
RIVAL_GRID = {"rate": (1e-3, 2e-3, 4e-3), "batch": (8,)}
OURS_STEPS = 500
OURS_GRID = (("adamw", "muon"), (0.5, 1.0, 2.0))
"""Algorithms, and rates as multiples of the derived one."""
PEERS = "tests.benchmarks.peers"


def prepare(books: Path, folder: Path) -> None:
    """Tokens of the books; one book in ten, by the hash of its path, is held out, and `JUDGED` windows of those are
    what quality is judged by."""
    table = pl.read_parquet(books, columns=["path", "text"])
    held_out = is_heldout(table["path"], HELD_OUT)
    train, unseen = (table.filter(chosen)["text"].to_list() for chosen in (~held_out, held_out))
    tokenizer = learn("bpe", VOCABULARY, lambda: iter([train[::3]]))
    end = tokenizer.token_to_id(END_OF_TEXT)

    def tokens(texts: list[str]) -> np.ndarray:
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return np.concatenate([np.array([*document.ids, end], np.uint16) for document in encoded])

    def token_bytes(token: int) -> int:
        piece = tokenizer.id_to_token(token)
        assert piece is not None
        return 0 if piece == END_OF_TEXT else len(piece)

    seen, judged = tokens(train), tokens(unseen)
    starts = np.linspace(0, len(judged) - CONTEXT - 1, JUDGED).astype(int)
    np.save(folder / "train.npy", seen)
    np.save(folder / "held_out.npy", np.stack([judged[start : start + CONTEXT + 1] for start in starts]))
    np.save(folder / "token_bytes.npy", [token_bytes(token) for token in range(VOCABULARY)])
    facts = {"vocabulary": VOCABULARY, "context": CONTEXT, "train": len(seen), "held_out": len(judged)}
    (folder / "facts.json").write_text(json.dumps(facts))


def ours(folder: Path, seed: int, algorithm: str = "muon", rate: float = 1.0) -> Side:
    """The derived settings (models/text/scaling_rules.py), but for what is tuned."""
    settings = derived(standard_model("mini", VOCABULARY), OURS_STEPS * 8 * CONTEXT, batch=8)
    optimisation = {
        "algorithm": algorithm,
        "learning_rate": rate * settings.optimisation.learning_rate,
        "weight_decay": settings.optimisation.weight_decay,
        "warmup_steps": settings.optimisation.warmup_steps,
        "cooldown_steps": settings.optimisation.cooldown_steps,
    }
    described = {"precision": "bf16", "batch": 8, "steps": settings.steps, "seed": seed, "optimisation": optimisation}
    return side("nightschool bf16", "nightschool", folder, described)


def rival(folder: Path, seed: int, precision: str, **changes: float) -> Side:
    """The side that has nanoGPT's shape and loop, always over as many tokens as `RIVAL`."""
    described: dict[str, Any] = {**RIVAL, **changes, "precision": precision, "seed": seed}
    larger = described["batch"] / RIVAL["batch"]
    described |= {"steps": round(RIVAL["steps"] / larger), "warmup": round(RIVAL["warmup"] / larger)}
    return side(f"nanoGPT {precision}", "nanogpt", folder, described)


def side(name: str, peer: str, folder: Path, described: dict[str, Any]) -> Side:
    return Side(name, (sys.executable, "-m", f"{PEERS}.quality_{peer}", str(folder), json.dumps(described)))


def once(side: Side) -> None:
    compare([side], rounds=1, look_s=SELDOM_S)


def tune(folder: Path) -> None:
    """Every point of both grids once, in bf16: quality differs from float32's by less than from one seed to another."""
    for algorithm, rate in itertools.product(*OURS_GRID):
        once(replace(ours(folder, 0, algorithm, rate), name=f"ours {algorithm} {rate:g} times"))
    for rate, batch in itertools.product(*RIVAL_GRID.values()):
        once(replace(rival(folder, 0, "bf16", rate=rate, batch=batch), name=f"rival {rate:g} {batch}"))


def judge(folder: Path, rounds: int) -> bool:
    """All sides in turn; whether ours reaches the rival's quality within the goal."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in range(rounds):
        for each in (ours(folder, seed), rival(folder, seed, "bf16"), rival(folder, seed, "float32")):
            once(each)
            runs.setdefault(each.name, []).append(each.facts)
    bits, times = (
        {name: statistics.median(run[what] for run in facts) for name, facts in runs.items()}
        for what in ("bits", "train_s")
    )
    own = "nightschool bf16"
    table = Table("side", "bits per byte", "training s", "ours takes", "goal", "met", title="Time to a fixed quality")
    table.add_row(own, f"{bits[own]:.4f}", f"{times[own]:.0f}")
    met = {}
    for name, goal in (("nanoGPT float32", GOAL), ("nanoGPT bf16", 1.0)):
        share = times[own] / times[name]
        met[name] = bits[own] <= bits[name] and share <= goal
        verdict = "yes" if met[name] else "NO"
        table.add_row(
            name, f"{bits[name]:.4f}", f"{times[name]:.0f}", f"{share:.2f} of its time", f"at most {goal:g}", verdict
        )
    Console().print(table)
    return all(met.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tune", action="store_true")
    chosen = parser.parse_args()
    books = SHARED_DATA / "text" / "classic_books.parquet"
    if not books.is_file():
        print("skipped: the optional data folder ../shared/data is not here")
        return 0
    with tempfile.TemporaryDirectory() as place:
        prepare(books, Path(place))
        if chosen.tune:
            tune(Path(place))
            return 0
        return int(not judge(Path(place), chosen.rounds))


if __name__ == "__main__":
    sys.exit(main())
