"""Which way to take the main text out of web pages: speed, and what is kept of code, tables, text and menus.

python -m tests.benchmarks.webpages [--rounds 3]
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks.intake.webpage import SURROUNDINGS
from tests.benchmarks.sides import Side, compare, environment

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "text"
WORKER = Path(__file__).parent / "peers" / "webpages.py"
PINNED = ("resiliparse==2.0.1", "trafilatura==2.3.1", "lxml==6.1.3", "pyarrow==25.0.0")
KEPT = ("code", "cells", "paragraphs", "headings")


def main() -> None:
    """Print the table; exit code 1 where a goal is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if not DATA.is_dir():
        sys.exit("skipped: the optional data folder ../shared/data is not here")
    python = environment("webpages", PINNED)
    names = {"ours": json.dumps(SURROUNDINGS), "main_content": "main_content", "trafilatura": "trafilatura"}
    sides = {name: Side(name, [python, str(WORKER), side, str(DATA)]) for name, side in names.items()}
    compare(list(sides.values()), rounds)
    speed = {name: statistics.median(run.facts["mb_per_s"] for run in side.runs) for name, side in sides.items()}
    ours, other, peer = (sides[name].facts for name in names)
    rows = [("speed", speed["ours"] / speed["trafilatura"], "times trafilatura's", 10.0, True)]
    rows += [
        (f"{kind} kept", ours[kind], f"main_content {other[kind]}, trafilatura {peer[kind]}", 0.99, True)
        for kind in KEPT
    ]
    rows += [("menus kept", ours["menus"], f"main_content {other['menus']}, trafilatura {peer['menus']}", 0.1, False)]
    table = Table("what", "measured", "against", "goal", "met")
    met = []
    for what, measured, against, goal, at_least in rows:
        met.append(measured >= goal if at_least else measured <= goal)
        table.add_row(
            what, f"{measured:.3g}", against, f"{'≥' if at_least else '≤'} {goal:g}", "yes" if met[-1] else "NO"
        )
    Console().print(table)
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
