"""Tells a training that hangs from one that is slow, by its heartbeat and by how long its own steps take."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from models.process.heartbeat import Phase, last_beat

SHORTEST_PATIENCE_S = 60.0
PATIENCE_STEPS = 20


class HangWatch:
    """Time since the last heartbeat, on a clock that does not run while the machine is suspended."""

    def __init__(self, work: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._clock = work, clock
        self._seen, _ = last_beat(work)  # an earlier process's; this one is only starting
        self._phase: Phase = "starting"
        self._since = clock()

    def too_long(self, median_step_s: float | None, patience_s: float) -> str | None:
        """How it hangs, as in "The training hung: ...", or None.

        While it trains and its steps are known, the patience is 20 of them, from a minute up to `patience_s`; in the
        long phases (starting, compiling, saving, evaluating) it is `patience_s`.
        """
        at, phase = last_beat(self._work)
        if at != self._seen:
            self._seen, self._phase, self._since = at, phase, self._clock()
        silence = self._clock() - self._since
        if self._phase == "training" and median_step_s is not None:
            if silence > min(patience_s, max(SHORTEST_PATIENCE_S, PATIENCE_STEPS * median_step_s)):
                return f"hung: no step in {silence:,.0f} s, where one takes {median_step_s:,.2g} s"
        elif silence > patience_s:
            return f"hung: no sign of life for {silence:,.0f} s while {self._phase}"
        return None
