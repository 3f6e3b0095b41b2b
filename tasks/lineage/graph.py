"""Lineage: from any artifact back to everything it was made of, read from the manifests alone.

Every manifest names its inputs by stage and digest, so the store itself is the graph: nothing else records it and
nothing can disagree with it. Pure functions; where artifacts lie is the caller's `lookup`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tasks.core.artifact import Artifact, Manifest, Reference

Lookup = Callable[[Reference], Artifact]


@dataclass(frozen=True)
class Node:
    """One artifact as the graph shows it. `manifest` is None where the store does not hold it (or never did)."""

    reference: Reference
    manifest: Manifest | None = None
    metrics: dict[str, int | float] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Reference]:
        """Parameter name to artifact, without inputs that were left out."""
        return dict(self.manifest.references()) if self.manifest is not None else {}


@dataclass(frozen=True)
class Graph:
    """Artifacts in an order in which inputs come before what was made of them."""

    nodes: tuple[Node, ...]

    @cached_property
    def edges(self) -> dict[tuple[Reference, Reference], tuple[str, ...]]:
        """(input, output) to the names of the parameters that took it.

        Where a stage took all its own earlier outputs (a history of nights), the newest stands for them: it has the
        others as its own history.
        """
        names: dict[tuple[Reference, Reference], list[str]] = {}
        for node in self.nodes:
            own = [reference for reference in node.inputs.values() if reference.stage == node.reference.stage]
            for name, reference in node.inputs.items():
                if reference in own[:-1]:
                    continue
                names.setdefault((reference, node.reference), []).append(name)
        return {edge: tuple(found) for edge, found in names.items()}

    @cached_property
    def depths(self) -> dict[Reference, int]:
        """Length of the longest way to each artifact from one without inputs."""
        depths: dict[Reference, int] = {}
        for node in self.nodes:
            depths[node.reference] = max((depths[given] + 1 for given in node.inputs.values()), default=0)
        return depths

    def differing_settings(self, node: Node) -> dict[str, Any]:
        """The settings in which a node differs from others of its stage: what tells a twin from the original."""
        own = _flat(node.manifest.settings) if node.manifest else {}
        others = [
            _flat(other.manifest.settings)
            for other in self.nodes
            if other is not node and other.manifest and other.reference.stage == node.reference.stage
        ]
        return {name: value for name, value in own.items() if any(other.get(name) != value for other in others)}


def ancestors(artifacts: Iterable[Artifact], lookup: Lookup) -> Graph:
    """The graph of some artifacts and of everything before them. An artifact that the store has lost is a node
    without inputs."""
    found: dict[Reference, Node] = {}
    # Depth first with an explicit stack: a chain of a thousand nights must not meet Python's recursion limit.
    waiting: list[tuple[Artifact, bool]] = [(artifact, False) for artifact in reversed(list(artifacts))]
    while waiting:
        artifact, inputs_done = waiting.pop()
        if artifact.reference in found:
            continue
        node = _node(artifact)
        if inputs_done:
            found[artifact.reference] = node
            continue
        waiting.append((artifact, True))
        waiting += [(lookup(reference), False) for reference in reversed(node.inputs.values())]
    return Graph(tuple(found.values()))


def beside(artifact: Artifact) -> Lookup:
    """Finds artifacts in the store in which this one lies."""
    store = artifact.path.parent.parent
    return lambda reference: Artifact(reference.stage, reference.digest, store / reference.stage / reference.digest)


def _node(artifact: Artifact) -> Node:
    try:
        return Node(artifact.reference, artifact.manifest, artifact.metrics)
    except FileNotFoundError:
        return Node(artifact.reference)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flattened: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flattened |= _flat(value, f"{prefix}{name}.")
        else:
            flattened[prefix + name] = value
    return flattened
