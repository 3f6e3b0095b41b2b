"""Tells a spike from a step: whether loss or gradient norm stand so far above the last steps' that the weights must
not follow.

The rule is that of OLMo-core's skip-step optimizer: 6 deviations over 128 steps, from half a window on. Other than
there a skipped step does not enter the window, so that a burst of bad batches cannot widen what counts as usual; and a
level that has changed for good is accepted after `PATIENCE` skips. Costs 40 microseconds a step and 256 numbers of
state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import fsum, isfinite, sqrt
from sys import float_info
from typing import Any

WINDOW = 128
"""Accepted steps that are looked back on."""
FEWEST = WINDOW // 2
"""Accepted steps before anything is judged: in the steep beginning nothing is usual yet."""
PATIENCE = 8
"""Skips in a row after which the level counts as changed: the weights did not move meanwhile, so that so many different
batches in a row stand out by their own nature, and skipping on would be for ever."""


class SpikeGuard:
    """Judges each step by the accepted ones before it. The same numbers give the same verdicts, on any machine.

    Of several processes each must judge the same numbers (loss and norm over all of them), or they part ways.
    """

    def __init__(self, deviations: float) -> None:
        """`deviations`: standard deviations above the mean at which a step is a spike."""
        self._deviations = deviations
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._grad_norms: deque[float] = deque(maxlen=WINDOW)
        self._skips = 0

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Why the step must not move the weights, with the numbers; None = it may, and it is remembered.

        Both must be finite: a training that has left the numbers is not saved by leaving out one step.
        """
        assert isfinite(loss) and isfinite(grad_norm), f"loss {loss}, gradient norm {grad_norm}"
        reason = self._spike("loss", loss, self._losses) or self._spike("gradient norm", grad_norm, self._grad_norms)
        if reason and self._skips < PATIENCE:
            self._skips += 1
            return reason
        if reason:  # the level has changed: what was usual before says nothing about it
            self._losses.clear()
            self._grad_norms.clear()
        self._skips = 0
        self._losses.append(loss)
        self._grad_norms.append(grad_norm)
        return None

    def state(self) -> dict[str, Any]:
        """All that the next verdict depends on, as JSON holds it exactly."""
        return {"losses": list(self._losses), "grad_norms": list(self._grad_norms), "skips": self._skips}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._losses = deque(state["losses"], maxlen=WINDOW)
        self._grad_norms = deque(state["grad_norms"], maxlen=WINDOW)
        self._skips = state["skips"]

    def _spike(self, what: str, value: float, before: Sequence[float]) -> str | None:
        if len(before) < FEWEST:
            return None
        mean = fsum(before) / len(before)
        deviation = sqrt(fsum((earlier - mean) ** 2 for earlier in before) / (len(before) - 1))
        # Rounding is no spike: where all steps are alike, a millionth of the mean counts as their spread.
        distance = (value - mean) / max(deviation, 1e-6 * abs(mean), float_info.min)
        if distance <= self._deviations:
            return None
        return (
            f"{what} {value:.4g} is {distance:.1f} standard deviations above the mean {mean:.4g} "
            f"of the last {len(before)} steps"
        )
