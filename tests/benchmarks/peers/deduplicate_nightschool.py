"""Near-duplicate removal by the stage, as a flow runs it with threads: corpus folder, output folder, earlier nights.

`--warm FOLDER` first runs it on another corpus, so that the stage's own times do not hold the loading of libraries,
which a flow has behind it.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from tasks.core.batches import Batches
from tasks.core.stage import StageLog
from tasks.core.store import Artifact
from tasks.deduplicate import DeduplicateSettings, deduplicate


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("nights", type=Path, nargs="*")
    arguments.add_argument("--warm", type=Path)
    given = arguments.parse_args()
    if given.warm:
        run(given.warm, given.out.with_name("warm-kept"), [])
    wall, cpu = time.perf_counter(), time.process_time()
    kept = run(given.corpus, given.out, given.nights)
    spent = {"stage_wall_s": time.perf_counter() - wall, "stage_cpu_s": time.process_time() - cpu}
    print(json.dumps({"kept": kept, **{name: round(value, 2) for name, value in spent.items()}}))


def run(corpus: Path, out: Path, nights: list[Path]) -> int | float:
    work = out.with_name(f"{out.name}-batches")
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True)
    history = tuple(Artifact("deduplicate", "", night) for night in nights)
    documents = Artifact("corpus", "", corpus)
    return deduplicate(documents, history, DeduplicateSettings(), out, StageLog(), Batches(work))["kept"]


if __name__ == "__main__":
    main()
