"""Near-duplicate removal by the stage, as a flow runs it with threads: corpus folder, output folder, earlier nights."""

import json
import shutil
import sys
import time
from pathlib import Path

from tasks.core.batches import Batches
from tasks.core.stage import StageLog
from tasks.core.store import Artifact
from tasks.deduplicate import DeduplicateSettings, deduplicate


def main(corpus: Path, out: Path, nights: list[Path]) -> None:
    import tasks.key_sort
    import tasks.minhash  # noqa: F401  what is timed below does not begin with loading numba

    history = tuple(Artifact("deduplicate", "", night) for night in nights)
    for folder in (out, out.with_name(f"{out.name}-batches")):
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True)
    wall, cpu = time.perf_counter(), time.process_time()
    batches = Batches(out.with_name(f"{out.name}-batches"))
    metrics = deduplicate(Artifact("corpus", "", corpus), history, DeduplicateSettings(), out, StageLog(), batches)
    spent = {"stage_wall_s": time.perf_counter() - wall, "stage_cpu_s": time.process_time() - cpu}
    print(json.dumps({"kept": metrics["kept"], **{name: round(value, 2) for name, value in spent.items()}}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(night) for night in sys.argv[3:]])
