"""The real training process on the benchmark's spec, alone or as a task has it.

    python -m tests.benchmarks.peers.training_nightschool fit|task SHAPE.json

fit: `python -m models.fit`. task: the same under the real supervisor, which feeds a real run's journal. The speed is
that between two lines of the progress file, so a checkpoint that falls between them counts.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from models.spec import FitSpec


def main(mode: str, shape: dict[str, Any]) -> None:
    spec = FitSpec.model_validate(shape["spec"])
    for folder in (spec.work, spec.out):
        shutil.rmtree(folder, ignore_errors=True)
    spec.work.mkdir(parents=True)
    if mode == "task":
        supervised(spec)
    else:
        (spec.work / "spec.json").write_text(spec.model_dump_json())
        subprocess.run([sys.executable, "-m", "models.fit", str(spec.work / "spec.json")], check=True)
    print()
    print(json.dumps(facts(spec, shape)))


def supervised(spec: FitSpec) -> None:
    """What the stage `pretrain` does with its spec, in a run with a journal of its own."""
    from tasks.core.run import RunLog
    from tasks.training.supervise import supervise
    from tests.plain import PlainRun

    home = spec.work / "home"
    home.mkdir()
    run = PlainRun(home)
    try:
        supervise(spec, RunLog(run, "pretrain"))
    finally:
        run.journal.close()


def facts(spec: FitSpec, shape: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second over the steps after the warm-up, first and last loss."""
    reports = [json.loads(line) for line in (spec.work / "progress.jsonl").read_text().splitlines()]
    took_s = (reports[-1]["time"] - reports[shape["warm"] - 1]["time"]) / 1e3
    tokens = (len(reports) - shape["warm"]) * spec.batch * spec.model.context_length
    return {
        "tokens_per_second": round(tokens / took_s, 1),
        "losses": [round(reports[at]["loss"], 3) for at in (0, -1)],
    }


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
