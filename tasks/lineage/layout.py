"""Where to draw the boxes of a lineage graph: layers from top to bottom, few crossings, straight lines where possible.

The method of Sugiyama, Tagawa and Toda (1981) in its simplest form. An edge over several layers passes through a
point in each, shared by all edges from the same box, so that they make a trunk with branches. Layers are ordered by the
mean position of their neighbours, and positions are the least-squares fit to those means that keeps the boxes apart.
Pure and deterministic; 0.04 s for 100 boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tasks.core.artifact import Reference
from tasks.lineage.graph import Graph

BOX_WIDTH, BOX_HEIGHT = 176, 64
GAP, LAYER_GAP = 20, 46
BEND_WIDTH = 16
SWEEPS = 12

Item = tuple[Reference, bool, int]
"""A box (its reference, False, layer), or where the edges that leave it and end further down pass a layer (..,
True, ..)."""


@dataclass(frozen=True)
class Drawing:
    """Pixel positions: the top left corner of each box, and an SVG path for each edge."""

    width: float
    height: float
    boxes: dict[Reference, tuple[float, float]]
    paths: dict[tuple[Reference, Reference], str]


def draw(graph: Graph) -> Drawing:
    """Lay out a graph."""
    depths = graph.depths
    layers: list[list[Item]] = [[] for _ in range(max(depths.values(), default=-1) + 1)]
    routes: dict[tuple[Reference, Reference], list[Item]] = {}
    for reference, depth in depths.items():
        layers[depth].append((reference, False, depth))
    for start, end in graph.edges:
        bends: list[Item] = [(start, True, layer) for layer in range(depths[start] + 1, depths[end])]
        for bend in bends:
            if bend not in layers[bend[2]]:
                layers[bend[2]].append(bend)
        routes[start, end] = [(start, False, depths[start]), *bends, (end, False, depths[end])]
    pieces = dict.fromkeys(piece for route in routes.values() for piece in pairwise(route))
    above: dict[Item, list[Item]] = {item: [] for layer in layers for item in layer}
    below: dict[Item, list[Item]] = {item: [] for layer in layers for item in layer}
    for upper, lower in pieces:
        below[upper].append(lower)
        above[lower].append(upper)
    centres = _place(layers, above, below)
    left = min((centres[item] - _width(item) / 2 for layer in layers for item in layer), default=0)
    right = max((centres[item] + _width(item) / 2 for layer in layers for item in layer), default=0)

    def top(layer: int) -> float:
        return layer * (BOX_HEIGHT + LAYER_GAP)

    boxes = {
        reference: (centres[reference, False, depth] - left - BOX_WIDTH / 2, top(depth))
        for reference, depth in depths.items()
    }
    paths = {}
    for edge, route in routes.items():
        points = [(centres[route[0]] - left, top(route[0][2]) + BOX_HEIGHT)]
        for bend in route[1:-1]:
            points += [(centres[bend] - left, top(bend[2])), (centres[bend] - left, top(bend[2]) + BOX_HEIGHT)]
        points.append((centres[route[-1]] - left, top(route[-1][2])))
        paths[edge] = _curve(points)
    return Drawing(right - left, max(top(len(layers)) - LAYER_GAP, 0), boxes, paths)


def spread(wanted: Sequence[float], distances: Sequence[float]) -> list[float]:
    """Positions nearest to `wanted` (least squares) with at least distances[i] between positions i and i + 1.

    Subtracting the distances turns this into isotonic regression, solved by pooling adjacent violators.
    """
    offsets = [0.0]
    for distance in distances:
        offsets.append(offsets[-1] + distance)
    pools: list[tuple[float, int]] = []  # mean, size
    for value, offset in zip(wanted, offsets, strict=True):
        mean, size = value - offset, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (mean * size + before * count) / (size + count), size + count
        pools.append((mean, size))
    fitted = [mean for mean, size in pools for _ in range(size)]
    return [value + offset for value, offset in zip(fitted, offsets, strict=True)]


def _place(layers: list[list[Item]], above: dict[Item, list[Item]], below: dict[Item, list[Item]]) -> dict[Item, float]:
    """The horizontal centre of each item."""
    centres = {item: float(i) * BOX_WIDTH for layer in layers for i, item in enumerate(layer)}
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        neighbours = above if downwards else below
        for layer in layers if downwards else reversed(layers):
            wanted = {item: _mean([centres[other] for other in neighbours[item]], centres[item]) for item in layer}
            if sweep < SWEEPS - 4:  # the last sweeps only straighten
                layer.sort(key=lambda item: wanted[item])
            distances = [(_width(a) + _width(b)) / 2 + GAP for a, b in pairwise(layer)]
            centres |= zip(layer, spread([wanted[item] for item in layer], distances), strict=True)
    return centres


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _width(item: Item) -> float:
    return BEND_WIDTH if item[1] else BOX_WIDTH


def _curve(points: list[tuple[float, float]]) -> str:
    """Down each layer in a straight line, from layer to layer in an S."""
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for i in range(0, len(points) - 1, 2):
        (x0, y0), (x1, y1) = points[i], points[i + 1]
        middle = (y0 + y1) / 2
        path += f" C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1:.1f}"
        if i + 2 < len(points):
            path += f" L{points[i + 2][0]:.1f},{points[i + 2][1]:.1f}"
    return path
