"""What a training measures reaches the log: each step once, with what follows from it."""

import json
from pathlib import Path

from models.machine.flops import flops_per_token
from models.process.progress import ProgressFile, Report
from models.spec import FitSpec
from tasks.training.progress_log import ProgressLog
from tests.models.shards import stream_spec
from tests.tasks.conftest import HeardLog


class ShownLog(HeardLog):
    """Remembers what is shown of the progress as well."""

    shown = ("", 0.0, 0.0)

    def progress(self, done: float, total: float, unit: str) -> None:
        self.shown = (unit, done, total)


def reported(spec: FitSpec, steps: range) -> None:
    """Steps of half a second, at 1,000 tokens/s."""
    progress = ProgressFile(spec.work / "progress.jsonl")
    for step in steps:
        progress.append(Report(step, 1.5, 0.1, 2.0, 1000.0, step * 500, skipped=step == 3))
    progress.close()


def at_work(tmp_path: Path, peak_flops: float | None) -> FitSpec:
    spec = stream_spec(tmp_path)
    spec.work.mkdir()
    (spec.work / "stdout.txt").write_text("Computes in float32.\n")
    (spec.work / "training.json").write_text(json.dumps({"machine": {"peak_flops": peak_flops}}))
    return spec


def test_each_step_is_fed_once_with_the_time_that_is_left(tmp_path: Path) -> None:
    spec, log = at_work(tmp_path, None), ShownLog()
    progress = ProgressLog(spec, log, 1)
    reported(spec, range(1, 7))
    progress.pump()
    assert progress.median_step_s == 0.5
    reported(spec, range(1, 11))
    progress.pump()
    progress.pump()
    assert [step for step, _ in log.series] == list(range(1, 11))
    assert log.lines == ["Computes in float32."]
    assert log.series[-1][1] == {
        "loss": 1.5,
        "learning_rate": 0.1,
        "grad_norm": 2.0,
        "tokens_per_second": 1000.0,
        "skipped": 0.0,
        "seconds_left": 10.0,
    }
    assert log.series[2][1]["skipped"] == 1.0
    assert log.shown == ("steps, loss 1.500, 1,000 tokens/s, 10 s left", 10, 30)


def test_the_share_of_the_peak_is_told_where_the_peak_is_known(tmp_path: Path) -> None:
    spec, log = at_work(tmp_path, 1e9), ShownLog()
    reported(spec, range(1, 4))
    ProgressLog(spec, log, 2).pump()
    flops = flops_per_token(spec.model)
    assert flops is not None
    assert log.series[0][1]["mfu"] == round(1000 * flops / 2e9, 4)
    assert f"MFU {1000 * flops / 2e9:.0%}" in log.shown[0]


def test_a_new_process_takes_its_own_time(tmp_path: Path) -> None:
    spec = at_work(tmp_path, None)
    progress = ProgressLog(spec, HeardLog(), 1)
    reported(spec, range(1, 11))
    progress.pump()
    progress.restart()
    assert progress.median_step_s is None
