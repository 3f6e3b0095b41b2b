"""How long a second night's training takes from the start of its process to its first finished step.

    python -m tests.benchmarks.second_night [--rounds 5]

The supervisor starts the process as in a flow; the clock runs from its Popen to the first line of the progress file, so
imports, the fresh weights, the compiled step from Inductor's warm cache and the step itself count. The first night,
unmeasured, fills the cache. Model: L4, d256, T256, 8,192 words, batch 8, compiled, bf16, 2 threads. Exits with 1 where
the median is over the goal.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.spec import FitSpec
from tasks.core.stage import StageLog
from tasks.training.supervise import supervise
from tests.benchmarks.training import SHAPES, training, write_tokens

GOAL_S = 10.0
STEPS = 4


def night(spec: FitSpec) -> float:
    """Train under the supervisor; seconds from the start of its process to the first finished step."""
    started: list[float] = []

    class Watched(subprocess.Popen[bytes]):
        """Notes when the supervisor starts the training (it also asks the compiler for its version, say)."""

        def __init__(self, command: list[str], *rest: object, **named: object) -> None:
            if any(word.startswith("models.fit") or word.endswith("torchrun") for word in map(str, command)):
                started.append(time.time())
            super().__init__(command, *rest, **named)  # type: ignore[call-overload]

    plain = subprocess.Popen
    subprocess.Popen = Watched  # type: ignore[assignment, misc]
    try:
        supervise(spec, StageLog())
    finally:
        subprocess.Popen = plain  # type: ignore[misc]
    assert len(started) == 1, f"the training was started {len(started)} times"
    first = json.loads((spec.work / "progress.jsonl").read_text().splitlines()[0])
    return first["time"] / 1e3 - started[0]


def main(rounds: int) -> int:
    os.environ["OMP_NUM_THREADS"] = "2"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        model = SHAPES["small"].model
        write_tokens(folder, model, 8 * STEPS)
        took = [night(training(folder, model, STEPS, str(number))) for number in range(rounds + 1)]
    median = statistics.median(took[1:])
    print(f"first night {took[0]:.1f} s, later ones {', '.join(f'{seconds:.1f}' for seconds in took[1:])} s")
    print(f"median to the first step {median:.1f} s, goal {GOAL_S:g} s: {'met' if median <= GOAL_S else 'MISSED'}")
    print(json.dumps({"first_s": round(took[0], 2), "later_s": [round(seconds, 2) for seconds in took[1:]]}))
    return int(median > GOAL_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    sys.exit(main(parser.parse_args().rounds))
