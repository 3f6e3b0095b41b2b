"""The page of a night's lineage: a box for each artifact, and in its side panel what the manifest says."""

import json
from pathlib import Path
from typing import Any

from tasks.core.digest import digest
from tasks.lineage.graph import Graph, Node
from tasks.lineage.layout import BOX_HEIGHT, BOX_WIDTH, draw
from tasks.release.pages import render

FILES_SHOWN = 12


def write_lineage(path: Path, title: str, graph: Graph) -> int:
    """Write the page and return how many artifacts it shows."""
    drawing = draw(graph)
    render(
        path,
        title=title,
        width=drawing.width,
        height=drawing.height,
        box_width=BOX_WIDTH,
        box_height=BOX_HEIGHT,
        boxes=[
            {
                "key": _key(node),
                "stage": node.reference.stage,
                "digest": node.reference.digest,
                "facts": facts_of(node, graph)[:2],
                "x": drawing.boxes[node.reference][0],
                "y": drawing.boxes[node.reference][1],
            }
            for node in graph.nodes
        ],
        edges=[
            {
                "start": f"{start.stage}-{start.digest}",
                "end": f"{end.stage}-{end.digest}",
                "path": path,
                "names": f"{start.stage} is {', '.join(graph.edges[start, end])} of {end.stage}",
            }
            for (start, end), path in drawing.paths.items()
        ],
        manifests={_key(node): _describe(node) for node in graph.nodes},
    )
    return len(graph.nodes)


def facts_of(node: Node, graph: Graph) -> list[str]:
    """Short lines for a node's box, the most telling first: how it differs from a twin, then its figures."""
    differing = graph.differing_settings(node).items()
    facts = [f"{name.rpartition('.')[2]}: {value}" for name, value in differing if not isinstance(value, list)]
    facts = [fact if len(fact) <= 28 else fact[:27] + "…" for fact in facts[:1]]
    metrics = node.metrics
    if "kept" in metrics and "documents" in metrics:
        facts.append(f"{metrics['kept']:,} of {metrics['documents']:,} kept")
    elif "documents" in metrics:
        facts.append(f"{metrics['documents']:,} documents")
    for name, shown in (
        ("bits_per_byte", "{:.3f} bits per byte"),
        ("bits_per_hidden_token", "{:.3f} bits per hidden token"),
        ("accuracy", "accuracy {:.1%}"),
        ("train_tokens", "{:,} tokens"),
        ("vocabulary", "{:,} different tokens"),
        ("weights", "{:,} weights"),
        ("steps", "{:,} steps"),
        ("labels", "{:,} labels"),
    ):
        if name in metrics:
            facts.append(shown.format(metrics[name]))
    if "bytes" in metrics:
        facts.append(f"{metrics['bytes'] / 1e6:,.1f} MB")
    return facts or [f"{name.replace('_', ' ')}: {_number(value)}" for name, value in metrics.items()]


def _describe(node: Node) -> dict[str, Any]:
    """A manifest as headed lists of (name, value) for the page's side panel."""
    sections: list[tuple[str, list[tuple[str, str]]]] = [
        ("figures", [(name, _number(value)) for name, value in node.metrics.items()])
    ]
    manifest = node.manifest
    if manifest is not None:
        files = [(entry.path, f"{entry.bytes:,} bytes") for entry in manifest.files[:FILES_SHOWN]]
        if len(manifest.files) > FILES_SHOWN:
            files.append((f"and {len(manifest.files) - FILES_SHOWN} more", ""))
        settings = [(name, json.dumps(value, ensure_ascii=False)) for name, value in manifest.settings.items()]
        sections += [
            ("made of", [(name, f"{given.stage} {given.digest[:12]}") for name, given in node.inputs.items()]),
            ("settings", settings),
            ("files", files),
            ("libraries", list(manifest.libraries.items())),
            ("code", [("symbols and files", f"{len(manifest.code):,}"), ("digest", digest(manifest.code)[:12])]),
        ]
    return {"stage": node.reference.stage, "digest": node.reference.digest, "sections": sections}


def _key(node: Node) -> str:
    return f"{node.reference.stage}-{node.reference.digest}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
