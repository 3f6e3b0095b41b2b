"""Says which source, and which sample of it, stands at which position of training: the mixture as arithmetic.

The sources take turns by a fixed cycle of slots that is repeated for ever, each source has its own endless order
(models/order/order.py), so it has its own epochs and repeats nothing within one. Position -> (source, sample) and its
inverse are two divisions and a look into a table of at most 16,384 slots (0.3 MB, 25 ms to make), whatever the sizes.
Drawing the source at random instead would need a count of all draws before a position, which is a state, and would miss
the weights by sqrt(m) after m samples.

The slots are of low discrepancy: after any number m of positions from the start of training, a source of q of the C
slots has had m q / C samples to within 1 - 1 / (2 S - 2) of one, S being the number of sources (the best bound there
is: Tijdeman, "The chairman assignment problem", Discrete Mathematics 32, 1980). The bound gives each slot of a source
a first and a last possible place, and serving the earliest last place finds an order if there is one (Jackson 1955).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from math import gcd, inf

import numpy as np
from numpy.typing import NDArray

from models.order.order import LIMIT, Indices, Order, derived_seed

SLOTS = 1 << 14
"""Slots of a cycle, before equal parts are cancelled: a share of 1 % is met to 0.6 % of itself, or better."""


def quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """Slots of each source, by largest remainders, in lowest terms; none gets less than one of SLOTS.

    A source whose share is below one slot gets one, and the others share the rest by their weights; if there is none
    such, every share is within 1 / SLOTS of its weight's. Exact, so the same on every machine.
    """
    if not weights or not all(0 < weight < inf for weight in weights):
        raise ValueError(f"A mixture needs finite weights above zero, not {list(weights)}.")
    if len(weights) > SLOTS:
        raise ValueError(f"A mixture has at most {SLOTS:,} sources, not {len(weights):,}: join some.")
    exact = [Fraction(weight) for weight in weights]
    tiny: set[int] = set()
    while True:
        total = sum(weight for number, weight in enumerate(exact) if number not in tiny)
        left = SLOTS - len(tiny)
        shares = [Fraction(1) if number in tiny else weight * left / total for number, weight in enumerate(exact)]
        below = {number for number, share in enumerate(shares) if share < 1}
        if not below:
            break
        tiny |= below
    slots = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda number: (slots[number] - shares[number], number))
    for number in by_remainder[: SLOTS - sum(slots)]:
        slots[number] += 1
    common = gcd(*slots)
    return tuple(count // common for count in slots)


@lru_cache(maxsize=64)
def turns(slots: tuple[int, ...]) -> NDArray[np.int64]:
    """Which source stands at each slot of the cycle; shape (sum(slots),).

    With S sources, a source with q of the C slots may not take its j-th (from 0) before the first place m (from 1) with
    m q / C >= j + 1 / (2 S - 2), and must have it one place after the last with m q / C <= j + 1 - 1 / (2 S - 2).
    """
    cycle, parts = sum(slots), max(1, 2 * len(slots) - 2)
    jobs = []
    for source, quota in enumerate(slots):
        for j in range(quota):
            first = -(-cycle * (j * parts + 1) // (quota * parts))
            last = cycle * ((j + 1) * parts - 1) // (quota * parts) + 1
            jobs.append((first, last, source))
    jobs.sort(reverse=True)
    waiting: list[tuple[int, int]] = []
    chosen = np.empty(cycle, dtype=np.int64)
    for place in range(cycle):
        while jobs and jobs[-1][0] <= place + 1:
            _, last, source = jobs.pop()
            heapq.heappush(waiting, (last, source))
        last, chosen[place] = heapq.heappop(waiting)
        assert last > place, "Tijdeman's bound"
    chosen.flags.writeable = False
    return chosen


class Mixture:
    """The endless order of training over several sources; constant memory for any sizes.

    A *position* counts samples over the whole training; a *sample* is an index in range(sizes[source]).
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.slots = quotas(weights)
        """Slots of each source in the cycle."""
        self.orders = [Order(size, derived_seed(seed, number)) for number, size in enumerate(sizes)]
        """The order of each source; the first has the seed itself, so that one source is simply its order."""
        assert len(self.slots) == len(self.orders)
        self.n = sum(sizes)
        """Samples of all sources together."""
        self.cycle = sum(self.slots)

    @cached_property
    def _turns(self) -> NDArray[np.int64]:
        return turns(self.slots)

    @cached_property
    def _places(self) -> list[NDArray[np.int64]]:
        """The slots of each source in the cycle, ascending."""
        return [np.flatnonzero(self._turns == source) for source in range(len(self.slots))]

    def items(self, start: int, count: int) -> tuple[NDArray[np.int64], Indices]:
        """The sources and the samples of them at positions start .. start + count; both of shape (count,)."""
        if start < 0 or count < 0 or start + count > LIMIT:
            raise ValueError(f"Positions {start} .. {start + count} are outside 0 .. 2**62.")
        if len(self.orders) == 1:
            return np.zeros(count, dtype=np.int64), self.orders[0].items(start, count)
        sources = self._turns[(start + np.arange(count, dtype=np.int64)) % self.cycle]
        samples = np.empty(count, dtype=np.uint64)
        for source in np.flatnonzero(np.bincount(sources)).tolist():
            mine = sources == source
            first = self._before(source, start)  # consecutive positions hold consecutive samples of the source's order
            samples[mine] = self.orders[source].items(first, int(np.count_nonzero(mine)))
        return sources, samples

    def position(self, source: int, sample: int, epoch: int) -> int:
        """The one position at which the source's sample stands in the source's own epoch, counted from 0."""
        rank = self.orders[source].position(sample, epoch)
        cycles, place = divmod(rank, self.slots[source])
        return cycles * self.cycle + int(self._places[source][place])

    def positions(self, source: int, sample: int, stop: int) -> list[int]:
        """All positions below `stop` at which the sample stands, ascending: the (k + 1)-th is that of its epoch k."""
        ranks = self._before(source, stop)
        found = [self.position(source, sample, epoch) for epoch in range(-(-ranks // self.orders[source].n))]
        return [position for position in found if position < stop]

    def _before(self, source: int, position: int) -> int:
        """How many samples of the source stand before the position."""
        cycles, slot = divmod(position, self.cycle)
        return cycles * self.slots[source] + int(np.searchsorted(self._places[source], slot))
