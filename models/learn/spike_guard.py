"""Tells a spike from a step: whether loss or gradient norm stand so far above the last steps' that the weights must
not follow.

The rule is that of OLMo-core's skip-step optimizer (6 deviations over 128 steps, from half a window on, and a skipped
value counts among the next 128), with three differences that noisy small models need:

- The centre is the median. The spread is the larger of the median absolute deviation and the standard deviation of the
  steps that were not skipped. A spike in the window moves none of them, so that the second of a pair is found as the
  first was, and the heavy tails that small batches have still count.
- Norms are compared by their logarithm: they are log-normal in first approximation (log-spread .15 to .3), and in plain
  numbers six deviations of a skewed distribution are met every few hundred sound steps. ZClip (Kumar et al. 2025,
  arXiv:2504.02507) and AdaGC (Wang et al. 2025, arXiv:2502.11034) adapt to the norm's own course for the same reason.
- While the rate warms up nothing is judged: norms fall by tens there.

At most `PATIENCE` of any 128 steps are skipped, as no more batches than that are bad by chance: what goes on standing
out is a new level, and has become the usual one when it fills half the window. 100 microseconds a step, 384 numbers of
state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import fsum, isfinite, log, sqrt
from statistics import median
from sys import float_info
from typing import Any

WINDOW = 128
"""Steps that are looked back on."""
FEWEST = WINDOW // 2
"""Steps before anything is judged: in the steep beginning nothing is usual yet."""
PATIENCE = 8
"""Most skips among the last `WINDOW` steps."""
LEAST_SPREAD = {"loss": 0.05, "gradient norm": 0.15}
"""Spread of a quieter course, in nats and as a logarithm: less than .3 nats or a factor of 2.5 (at 6 deviations) is
nothing to lose a step for, however alike the steps before were."""
_NORMAL = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


class SpikeGuard:
    """Judges each step by those before it. The same numbers give the same verdicts.

    Of several processes each must judge the same numbers (loss and norm over all of them), or they part ways.
    """

    def __init__(self, deviations: float) -> None:
        """`deviations`: robust standard deviations above the median at which a step is a spike."""
        self._deviations = deviations
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._grad_norms: deque[float] = deque(maxlen=WINDOW)
        self._skipped: deque[bool] = deque(maxlen=WINDOW)

    def judge(self, loss: float, grad_norm: float, warming_up: bool = False) -> str | None:
        """Why the step must not move the weights, with the numbers; None = it may. It is remembered either way.

        Both must be finite: a training that has left the numbers is not saved by leaving out one step.
        """
        assert isfinite(loss) and isfinite(grad_norm), f"loss {loss}, gradient norm {grad_norm}"
        reason = None
        if not warming_up and len(self._losses) >= FEWEST and sum(self._skipped) < PATIENCE:
            reason = self._spike("loss", loss, self._losses) or self._spike(
                "gradient norm", grad_norm, self._grad_norms
            )
        self._losses.append(loss)
        self._grad_norms.append(grad_norm)
        self._skipped.append(reason is not None)
        return reason

    def state(self) -> dict[str, Any]:
        """All that the next verdict depends on, as JSON holds it exactly."""
        return {
            "losses": list(self._losses),
            "grad_norms": list(self._grad_norms),
            "skipped": list(self._skipped),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; in a trunk of version 1, which knew no `skipped`, every step had moved."""
        self._losses = deque(state["losses"], maxlen=WINDOW)
        self._grad_norms = deque(state["grad_norms"], maxlen=WINDOW)
        self._skipped = deque(state.get("skipped", [False] * len(self._losses)), maxlen=WINDOW)

    def _spike(self, what: str, value: float, before: Sequence[float]) -> str | None:
        in_logarithm = what == "gradient norm"
        course = [_logarithm(earlier) for earlier in before] if in_logarithm else list(before)
        centre = median(course)
        robust = _NORMAL * median(abs(earlier - centre) for earlier in course)
        moved = [earlier for earlier, skipped in zip(course, self._skipped, strict=True) if not skipped]
        spread = max(robust, _deviation(moved), LEAST_SPREAD[what])
        distance = ((_logarithm(value) if in_logarithm else value) - centre) / spread
        if distance <= self._deviations:
            return None
        return (
            f"{what} {value:.4g} is {distance:.1f} deviations{' (in logarithms)' if in_logarithm else ''} above the "
            f"median {median(before):.4g} of the last {len(before)} steps"
        )


def _deviation(values: Sequence[float]) -> float:
    mean = fsum(values) / len(values)
    return sqrt(fsum((value - mean) ** 2 for value in values) / len(values))


def _logarithm(norm: float) -> float:
    return log(max(norm, float_info.min))
