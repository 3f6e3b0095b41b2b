"""What a night costs: a tenth of new documents against a full pass, and memory as the corpus grows fourfold.

    python -m tests.benchmarks.incremental

The stage is deduplicate, the only one that looks at what came before. Corpora are real documents repeated with edits,
in a temporary folder (6 GB of disk at the defaults). Cost is that of the stage itself; starting Python and loading the
libraries takes the same two seconds however much there is to do. Exits with 1 where a goal is missed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from tests.benchmarks.near_corpus import write_repeated
from tests.benchmarks.sides import Side, compare, run_side
from tests.conftest import SHARED_DATA

SHARE = 10
COST, MEMORY_GROWTH, MEMORY = 0.15, 1.2, 2e9


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabytes", type=int, default=1000, help="of the smaller corpus")
    options.add_argument("--times", type=int, default=4, help="the larger corpus is so many times the smaller")
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    if not SHARED_DATA.is_dir():
        print(f"skipped: the optional data folder {SHARED_DATA} is not here")
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("large", "small", "old", "new", "warm"):
            (home / name).mkdir()
        write_repeated(SHARED_DATA, home / "warm", 10**6)
        write_repeated(SHARED_DATA, home / "large", chosen.times * chosen.megabytes * 10**6)
        files = sorted((home / "large").glob("documents-*"))
        small = files[: len(files) // chosen.times]
        old = small[: -max(len(small) // SHARE, 1)]
        for name, some in (("small", small), ("old", old), ("new", small[len(old) :])):
            for number, path in enumerate(some):
                (home / name / f"documents-{number:05d}.parquet").hardlink_to(path)
        run_side(_side(home, "old"))
        full, night, large = _side(home, "small"), _side(home, "new", "old"), _side(home, "large")
        compare([full, night], chosen.rounds)
        compare([large], 1)
        sys.exit(_report(home, full, night, large))


def _side(home: Path, corpus: str, *nights: str) -> Side:
    module = "tests.benchmarks.peers.deduplicate_nightschool"
    paths = [home / corpus, home / f"{corpus}-kept", *(home / f"{name}-kept" for name in nights)]
    return Side(corpus, [sys.executable, "-m", module, *map(str, paths), "--warm", str(home / "warm")])


def _report(home: Path, full: Side, night: Side, large: Side) -> int:
    same = _verdicts(home, "small").equals(pl.concat([_verdicts(home, "old"), _verdicts(home, "new")]))
    growth = large.median("peak_bytes") / full.median("peak_bytes")
    rows = [
        *(
            (
                f"a tenth of new documents, {what}",
                _median(night, fact) / _median(full, fact),
                "a full pass",
                COST,
                "{:.1%}",
            )
            for what, fact in (("wall", "stage_wall_s"), ("CPU", "stage_cpu_s"))
        ),
        ("verdicts that differ from one pass", float(not same), "one ordered pass", 0, "{:.0f}"),
        ("peak memory", large.median("peak_bytes"), "the larger corpus", MEMORY, "{:,.0f}"),
        ("peak memory, ratio", growth, "the smaller corpus", MEMORY_GROWTH, "{:.2f}"),
    ]
    table = Table("what", "measured", "against", "goal", "met", title="What a night costs")
    for what, measured, against, goal, shape in rows:
        table.add_row(
            what, shape.format(measured), against, f"at most {shape.format(goal)}", "yes" if measured <= goal else "NO"
        )
    for side in (full, night, large):
        figures = f"{_median(side, 'stage_wall_s'):.1f} s, {_median(side, 'stage_cpu_s'):.1f} s CPU"
        table.add_row(side.name, figures, f"{side.facts['kept']:,} kept", "", f"{len(side.runs)} runs")
    Console().print(table)
    return int(any(measured > goal for _, measured, _, goal, _ in rows))


def _median(side: Side, fact: str) -> float:
    return float(pl.Series([run.facts[fact] for run in side.runs]).median())  # type: ignore[arg-type]


def _verdicts(home: Path, corpus: str) -> pl.DataFrame:
    files = sorted((home / f"{corpus}-kept").glob("verdicts-*"))
    return pl.concat([pl.read_parquet(path) for path in files]).drop("night")


if __name__ == "__main__":
    main()
