"""What a night costs: a tenth of new documents against a full pass of all data stages, and memory as the corpus grows.

    python -m tests.benchmarks.incremental

Ingest, filter, deduplicate, tokenizer and tokenize, as a night runs them but for Prefect's server. The cost is that of
the stages; whole processes are shown too, of which some 3 s are Python and its libraries, however much there is to do.
Corpora are real documents repeated with edits, in a temporary folder (20 GB of disk at the defaults).
Exits with 1 where a goal is missed.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import polars as pl
import yaml
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
        (home / "texts").mkdir()
        write_repeated(SHARED_DATA, home / "texts", chosen.times * chosen.megabytes * 10**6)
        files = sorted((home / "texts").glob("documents-*"))
        small = files[: len(files) // chosen.times]
        old = small[: -max(len(small) // SHARE, 1)]
        recipes = {name: _recipe(home, name, some) for name, some in (("large", files), ("small", small), ("old", old))}
        run_side(_side(home, "old", recipes["old"]))
        full, large = _side(home, "small", recipes["small"]), _side(home, "large", recipes["large"])
        night = _side(home, "night", recipes["small"], home / "old-home")
        compare([full, night], chosen.rounds)
        same = _kept(home, "small").equals(pl.concat([_kept(home, "old"), _kept(home, "night")]))
        for name in ("old", "night", "small"):
            shutil.rmtree(home / f"{name}-home")
        compare([large], 1)
        sys.exit(_report(full, night, large, same))


def _recipe(home: Path, name: str, files: list[Path]) -> Path:
    """A recipe over some of the files; all recipes have one name, so that one's nights are another's."""
    source = {"kind": "files", "name": "texts", "paths": list(map(str, files)), "columns": {"id": "doc_id"}}
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": "incremental", "ingest": {"sources": [source]}}))
    return path


def _side(home: Path, name: str, recipe: Path, *earlier: Path) -> Side:
    module = "tests.benchmarks.peers.incremental_nightschool"
    return Side(name, [sys.executable, "-m", module, *map(str, (recipe, home / f"{name}-home", *earlier))])


def _kept(home: Path, name: str) -> pl.DataFrame:
    """The texts that the newest partition's deduplication kept; ids say in which night a document was read."""
    folders = (home / f"{name}-home" / "artifacts" / "deduplicate").iterdir()
    newest = max(folders, key=lambda folder: (folder / "run.json").stat().st_mtime_ns)
    return pl.concat([pl.read_parquet(path, columns=["text"]) for path in sorted(newest.glob("documents-*"))])


def _report(full: Side, night: Side, large: Side, same: bool) -> int:
    growth = large.median("peak_bytes") / full.median("peak_bytes")
    rows = [
        ("a tenth of new documents, all stages", _stages(night) / _stages(full), "a full pass", COST, "{:.1%}"),
        ("kept sets that differ", float(not same), "one ordered pass", 0, "{:.0f}"),
        ("peak memory, bytes", large.median("peak_bytes"), "the larger corpus", MEMORY, "{:,.0f}"),
        ("peak memory, ratio", growth, "the smaller corpus", MEMORY_GROWTH, "{:.2f}"),
    ]
    table = Table("what", "measured", "against", "goal", "met", title="What a night costs")
    for what, measured, against, goal, shape in rows:
        table.add_row(
            what, shape.format(measured), against, f"at most {shape.format(goal)}", "yes" if measured <= goal else "NO"
        )
    for what, figure in (("wall", "wall_s"), ("CPU", "cpu_s")):
        table.add_row(
            f"the same, whole processes, {what}", f"{night.median(figure) / full.median(figure):.1%}", "", "", ""
        )
    for side in (full, night, large):
        figures = f"{side.median('wall_s'):.1f} s, {side.median('cpu_s'):.1f} s CPU"
        table.add_row(side.name, figures, f"{side.facts['kept']:,} kept", "", f"{len(side.runs)} runs")
    Console().print(table)
    return int(any(measured > goal for _, measured, _, goal, _ in rows))


def _stages(side: Side) -> float:
    """Median of the seconds that all stages took together."""
    return statistics.median(sum(run.facts["seconds"].values()) for run in side.runs)


if __name__ == "__main__":
    main()
