"""The drawing of a lineage graph: nothing overlaps, all flows downwards, the same graph gives the same picture."""

import re
from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from tasks.core.artifact import Manifest, Reference
from tasks.lineage.graph import Graph, Node
from tasks.lineage.layout import BOX_HEIGHT, BOX_WIDTH, draw, spread


def graph_of(inputs: list[set[int]]) -> Graph:
    """Node i is made of the nodes inputs[i], which all come before it."""
    references = [Reference(stage=f"stage-{i}", digest=str(i)) for i in range(len(inputs))]
    nodes = []
    for i, given_ in enumerate(inputs):
        named: dict[str, Reference | list[Reference] | None] = {f"input_{j}": references[j] for j in sorted(given_)}
        manifest = Manifest(stage=f"stage-{i}", version=1, inputs=named, settings={}, code={}, libraries={}, files=[])
        nodes.append(Node(references[i], manifest))
    return Graph(tuple(nodes))


graphs = st.integers(1, 14).flatmap(
    lambda size: st.tuples(*[st.sets(st.integers(0, i - 1), max_size=4) if i else st.just(set()) for i in range(size)])
)


@given(graphs)
def test_boxes_do_not_overlap_and_lie_below_their_inputs(inputs: tuple[set[int], ...]) -> None:
    graph = graph_of(list(inputs))
    drawing = draw(graph)
    for (x0, y0), (x1, y1) in combinations(drawing.boxes.values(), 2):
        assert abs(x0 - x1) >= BOX_WIDTH or abs(y0 - y1) >= BOX_HEIGHT
    for start, end in graph.edges:
        assert drawing.boxes[start][1] + BOX_HEIGHT < drawing.boxes[end][1]
    for x, y in drawing.boxes.values():
        assert -1e-6 <= x <= drawing.width - BOX_WIDTH + 1e-6
        assert 0 <= y <= drawing.height - BOX_HEIGHT


@given(graphs)
def test_an_edge_runs_from_the_foot_of_its_input_to_the_head_of_its_output(inputs: tuple[set[int], ...]) -> None:
    graph = graph_of(list(inputs))
    drawing = draw(graph)
    assert set(drawing.paths) == set(graph.edges)
    for (start, end), path in drawing.paths.items():
        numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", path)]
        (left, top), (right, bottom) = drawing.boxes[start], drawing.boxes[end]
        ends = (numbers[0], numbers[1], numbers[-2], numbers[-1])
        wanted = (left + BOX_WIDTH / 2, top + BOX_HEIGHT, right + BOX_WIDTH / 2, bottom)
        assert all(abs(a - b) < 0.1 for a, b in zip(ends, wanted, strict=True))


@given(graphs)
def test_the_same_graph_gives_the_same_picture(inputs: tuple[set[int], ...]) -> None:
    assert draw(graph_of(list(inputs))) == draw(graph_of(list(inputs)))


def test_a_chain_is_a_straight_line() -> None:
    drawing = draw(graph_of([set(), {0}, {1}, {2}]))
    assert {x for x, _ in drawing.boxes.values()} == {0.0}
    assert drawing.width == BOX_WIDTH


def test_an_empty_graph_is_an_empty_picture() -> None:
    drawing = draw(Graph(()))
    assert (drawing.boxes, drawing.paths, drawing.height) == ({}, {}, 0)


@given(st.lists(st.tuples(st.floats(-500, 500), st.floats(0, 100)), min_size=1, max_size=20))
def test_spread_keeps_the_distances_and_moves_nothing_that_need_not_move(items: list[tuple[float, float]]) -> None:
    wanted, distances = [value for value, _ in items], [distance for _, distance in items[1:]]
    placed = spread(wanted, distances)
    for (left, right), distance in zip(pairwise(placed), distances, strict=True):
        assert right - left >= distance - 1e-6
    assert abs(sum(placed) - sum(wanted)) < 1e-6 * len(items) * 1000
    again = spread(placed, distances)
    assert all(abs(a - b) < 1e-6 for a, b in zip(placed, again, strict=True))
