"""Near-duplicate removal against datatrove's four stages and daft, on the same Parquet, shingles and bands.

    python -m tests.benchmarks.deduplicate

Precision and recall come from edited copies that were put into the corpus: recall is the share of the pairs of copy and
original with a true Jaccard similarity of 0.8 or more of which one is dropped (of ours: the copy, since it is later);
precision is the share of all drops as near-duplicates, natural ones too, whose true similarity to the document that
they are said to repeat reaches the threshold. A first run of ours is not counted: it compiles the kernels, once a
machine. Exits with 1 where a goal is missed.
"""

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from tasks.corpus.deduplicate import DeduplicateSettings
from tests.benchmarks.near_corpus import jaccard, write_corpus
from tests.benchmarks.sides import Side, compare, environment, run_side
from tests.conftest import SHARED_DATA

PEERS = Path(__file__).parent / "peers"
DATATROVE = ["datatrove[processing,io]==0.10.1", "spacy==3.8.18"]
DAFT = ["daft==0.7.26", "numpy", "pyarrow", "scipy"]
FASTER_THAN_DATATROVE, FASTER_THAN_DAFT = 25.0, 1.0
PRECISION, RECALL, ALIKE = 0.95, 0.99, 0.8
BUCKETS = [0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 1.01]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabytes", type=int, default=120)
    options.add_argument("--copies", type=int, default=8000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--datatrove-rounds", type=int, default=1, help="it takes minutes")
    chosen = options.parse_args()
    if not SHARED_DATA.is_dir():
        print(f"skipped: the optional data folder {SHARED_DATA} is not here")
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "corpus").mkdir()
        truth = write_corpus(SHARED_DATA, home / "corpus", chosen.megabytes * 10**6, chosen.copies)
        ours = Side(
            "nightschool",
            [sys.executable, "-m", "tests.benchmarks.peers.deduplicate_nightschool", *_of(home, "nightschool")],
        )
        daft = Side(
            "daft", [environment("deduplicate-daft", DAFT), str(PEERS / "deduplicate_daft.py"), *_of(home, "daft")]
        )
        datatrove = Side(
            "datatrove",
            [
                environment("deduplicate-datatrove", DATATROVE),
                str(PEERS / "deduplicate_datatrove.py"),
                *_of(home, "datatrove"),
                "2",
            ],
        )
        run_side(ours)
        for number in range(chosen.rounds):
            compare([ours, daft, datatrove] if number < chosen.datatrove_rounds else [ours, daft], 1)
        sys.exit(_report(home, truth, ours, daft, datatrove))


def _of(home: Path, name: str) -> list[str]:
    return [str(home / "corpus"), str(home / name)]


def _report(home: Path, truth: pl.DataFrame, ours: Side, daft: Side, datatrove: Side) -> int:
    console = Console()
    verdicts = pl.concat([pl.read_parquet(path) for path in sorted((home / "nightschool").glob("verdicts-*"))])
    kept = {
        "nightschool": set(verdicts.filter(pl.col("verdict") == "kept")["doc_id"]),
        **{
            side.name: set(json.loads((home / side.name / "kept.json").read_text()))
            for side in (daft, datatrove)
            if side.runs
        },
    }
    texts = pl.concat([pl.read_parquet(path) for path in sorted((home / "corpus").glob("documents-*"))])
    near = _near_pairs(verdicts, dict(texts.select("doc_id", "text").iter_rows()))
    threshold = DeduplicateSettings().threshold
    precision = (near["true"] >= threshold).to_numpy().mean()
    curve = Table("true similarity", "copies", *kept, title="Of pairs, one dropped")
    for low, high in itertools.pairwise(BUCKETS):
        some = truth.filter(pl.col("similarity").is_between(low, high, closed="left"))
        found = {
            name: sum(not {copy, original} <= ids for copy, original in some.select("doc_id", "original").iter_rows())
            for name, ids in kept.items()
        }
        curve.add_row(
            f"{low} to {min(high, 1)}",
            str(len(some)),
            *(f"{count / max(len(some), 1):.1%}" for count in found.values()),
        )
    console.print(curve)
    alike = truth.filter(pl.col("similarity") >= ALIKE)["doc_id"]
    recall = sum(doc_id not in kept["nightschool"] for doc_id in alike) / len(alike)
    error = (near["similarity"] - near["true"]).to_numpy().std(ddof=1)
    console.print(
        f"{len(near):,} near-duplicates dropped; true similarity at least {threshold - 0.04:.2f}: "
        f"{(near['true'] >= threshold - 0.04).to_numpy().mean():.2%}; error of the estimate: {error:.3f}"
    )
    rows = [
        ("precision", precision, f"true similarity at least {threshold}", PRECISION, "{:.4f}"),
        ("recall", recall, f"{len(alike):,} copies with true similarity at least {ALIKE}", RECALL, "{:.4f}"),
    ]
    for peer, goal in ((daft, FASTER_THAN_DAFT), (datatrove, FASTER_THAN_DATATROVE)):
        if peer.runs:
            ratio = peer.median("wall_s") / ours.median("wall_s")
            rows.append(("times as fast", ratio, f"{peer.name}, whole processes", goal, "{:.2f}"))
    table = Table("what", "measured", "against", "goal", "met", title="Near-duplicate removal")
    for what, measured, against, goal, shape in rows:
        table.add_row(what, shape.format(measured), against, f"at least {goal}", "yes" if measured >= goal else "NO")
    for side in (ours, daft, datatrove):
        if side.runs:
            peak = f"{side.median('peak_bytes') / 1e6:.0f} MB"
            table.add_row(
                side.name,
                f"{side.median('wall_s'):.1f} s, {side.median('cpu_s'):.1f} s CPU, {peak}",
                f"{side.facts['kept']:,} of {len(texts):,} kept",
                "",
                f"{len(side.runs)} runs",
            )
    console.print(table)
    return int(any(measured < goal for _, measured, _, goal, _ in rows))


def _near_pairs(verdicts: pl.DataFrame, texts: dict[str, str]) -> pl.DataFrame:
    """Each near-duplicate's estimated similarity to the document that it is said to repeat, and the true one."""
    near = verdicts.filter(pl.col("reason") == "near-duplicate")
    pairs = zip(near["doc_id"], near["evidence"].str.extract(r"similarity \S+ to (.*)"), strict=True)
    return near.with_columns(true=pl.Series([jaccard(texts[one], texts[other]) for one, other in pairs]))


if __name__ == "__main__":
    main()
