"""Carries what a training says and measures to the stage's log: each line once, each step once."""

from __future__ import annotations

import json
import statistics
from collections import deque
from typing import Any

from models.machine.flops import flops_per_token
from models.process.progress import Report, read_reports
from models.spec import FitSpec
from tasks.core.stage import StageLog

_RECENT = 64  # steps that the speed is taken from


class ProgressLog:
    """Reads progress and output of a training as they grow."""

    def __init__(self, spec: FitSpec, log: StageLog, processes: int) -> None:
        self._spec, self._log, self._processes = spec, log, processes
        self._offset = 0
        self._said = 0
        self._last: Report | None = None
        self._took: deque[float] = deque(maxlen=_RECENT)
        self._speeds: deque[float] = deque(maxlen=_RECENT)
        self._peak: float | None = None
        self.step = 0
        """The last one that was reported."""

    def restart(self) -> None:
        """A new process writes its own lines and takes its own time."""
        self._said = 0
        self._last = None
        self._took.clear()
        self._speeds.clear()

    @property
    def median_step_s(self) -> float | None:
        """Seconds a step of the process at work; None until it has reported some."""
        return statistics.median(self._took) if len(self._took) >= 5 else None

    def pump(self) -> None:
        """Pass on what is new."""
        said = self._spec.work / "stdout.txt"
        lines = said.read_text(errors="replace").split("\n")[:-1]
        for line in lines[self._said :]:
            self._log.info(line)
        self._said = len(lines)
        for report, offset in read_reports(self._spec.work / "progress.jsonl", self._offset):
            self._offset = offset
            self.step = report.step
            if self._last:
                self._took.append((report.time - self._last.time) / 1e3)
            else:
                self._peak = self._peak_flops() if flops_per_token(self._spec.model) else None
            self._last = report
            self._speeds.append(report.tokens_per_second)
            values = {
                "loss": report.loss,
                "learning_rate": report.learning_rate,
                "grad_norm": report.grad_norm,
                "tokens_per_second": report.tokens_per_second,
                "skipped": float(report.skipped),
            }
            if self._peak:
                values["mfu"] = self._utilisation(report.tokens_per_second)
            if (left := self._left_s()) is not None:
                values["seconds_left"] = left
            self._log.metrics(values, step=report.step, time_ms=report.time)
        if self._last:
            self._log.progress(self.step, self._spec.steps, self._in_words(self._last))

    def _in_words(self, report: Report) -> str:
        """The unit that stands behind "120 of 500"."""
        tokens = statistics.median(self._speeds)
        words = ["steps", f"loss {report.loss:.3f}", f"{tokens:,.0f} tokens/s"]
        if self._peak:
            words.append(f"MFU {self._utilisation(tokens):.0%}")
        if left := self._left_s():
            words.append(f"{left:,.0f} s left" if left < 120 else f"{left / 60:,.0f} min left")
        return ", ".join(words)

    def _left_s(self) -> float | None:
        if not self._took:
            return None
        return round((self._spec.steps - self.step) * statistics.median(self._took), 1)

    def _utilisation(self, tokens_per_second: float) -> float:
        flops = flops_per_token(self._spec.model)
        assert self._peak and flops
        return round(tokens_per_second * flops / self._peak, 4)

    def _peak_flops(self) -> float | None:
        """The peak of all devices together, as the training found them; None where the device is not known."""
        try:
            found: dict[str, Any] = json.loads((self._spec.work / "training.json").read_bytes())["machine"]
        except (OSError, ValueError, KeyError):
            return None
        return found["peak_flops"] * self._processes if found.get("peak_flops") else None
