"""Lineage: the way back from an artifact is in the manifests, and nowhere else."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tasks.core.artifact import Artifact, Manifest, Reference, Request
from tasks.core.store import Store
from tasks.lineage.graph import Graph, ancestors, beside


def commit(store: Store, stage: str, inputs: dict[str, Artifact | None], **settings: object) -> Artifact:
    out = store.scratch("x")
    out.mkdir(parents=True)
    (out / "data.json").write_text(json.dumps([stage, settings]))
    references: dict[str, Reference | list[Reference] | None] = {
        name: None if artifact is None else artifact.reference for name, artifact in inputs.items()
    }
    request = Request(stage=stage, version=1, inputs=references, settings=settings, code={}, libraries={})
    return store.commit(request, out, {"documents": 3})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def names(graph: Graph) -> list[str]:
    return [node.reference.stage for node in graph.nodes]


def test_a_model_leads_back_to_every_artifact_behind_it(store: Store) -> None:
    ingest = commit(store, "ingest", {})
    unrelated = commit(store, "ingest", {}, other=True)
    tokenizer = commit(store, "tokenizer", {"documents": ingest, "history": None})
    tokens = commit(store, "tokenize", {"documents": ingest, "tokenizer": tokenizer})
    model = commit(store, "pretrain", {"tokens": tokens, "tokenizer": tokenizer, "copy": tokenizer})

    graph = ancestors([model], beside(model))

    assert names(graph) == ["ingest", "tokenizer", "tokenize", "pretrain"]
    assert unrelated.reference not in graph.depths
    assert graph.edges == {
        (ingest.reference, tokenizer.reference): ("documents",),
        (ingest.reference, tokens.reference): ("documents",),
        (tokenizer.reference, tokens.reference): ("tokenizer",),
        (tokens.reference, model.reference): ("tokens",),
        (tokenizer.reference, model.reference): ("copy", "tokenizer"),
    }
    assert list(graph.depths.values()) == [0, 1, 2, 3]
    assert graph.nodes[0].metrics == {"documents": 3}


def test_an_artifact_that_several_need_is_in_the_graph_once(store: Store) -> None:
    ingest = commit(store, "ingest", {})
    left, right = (commit(store, name, {"documents": ingest}) for name in ("left", "right"))
    assert names(ancestors([left, right, left], beside(left))) == ["ingest", "left", "right"]


def test_an_artifact_that_the_store_has_lost_still_stands_in_the_graph(store: Store) -> None:
    ingest = commit(store, "ingest", {})
    filtered = commit(store, "filter", {"documents": ingest})
    ingest.path.rename(store.home / "gone")
    graph = ancestors([filtered], beside(filtered))
    assert names(graph) == ["ingest", "filter"]
    assert graph.nodes[0].manifest is None


def test_a_folder_without_a_manifest_is_a_node_without_inputs(tmp_path: Path) -> None:
    (tmp_path / "brought" / "x").mkdir(parents=True)
    (tmp_path / "brought" / "x" / "model.safetensors").write_bytes(b"w")
    artifact = Artifact.of("export", tmp_path / "brought" / "x")
    graph = ancestors([artifact], beside(artifact))
    assert [(node.reference, node.inputs) for node in graph.nodes] == [(artifact.reference, {})]


def test_a_chain_of_ten_thousand_nights_is_no_deeper_than_memory(store: Store) -> None:
    newest = Reference(stage="pretrain", digest="10000")

    def lookup(reference: Reference) -> Artifact:
        artifact = Artifact(reference.stage, reference.digest, store.home)
        before = int(reference.digest) - 1
        artifact.__dict__["manifest"] = Manifest(
            stage="pretrain",
            version=1,
            inputs={"model": Reference(stage="pretrain", digest=str(before)) if before else None},
            settings={},
            code={},
            libraries={},
            files=[],
        )
        artifact.__dict__["metrics"] = {}
        return artifact

    graph = ancestors([lookup(newest)], lookup)
    assert len(graph.nodes) == 10_000
    assert graph.depths[newest] == 9_999


def test_twins_are_told_apart_by_the_settings_in_which_they_differ(store: Store) -> None:
    tuned = commit(store, "finetune", {}, start="pretrained", rates={"head": 1, "body": 2})
    scratch = commit(store, "finetune", {}, start="scratch", rates={"head": 1, "body": 3})
    other = commit(store, "export", {}, start="here")
    graph = ancestors([tuned, scratch, other], beside(tuned))
    assert [graph.differing_settings(node) for node in graph.nodes] == [
        {"start": "pretrained", "rates.body": 2},
        {"start": "scratch", "rates.body": 3},
        {},
    ]


def test_a_history_of_nights_is_drawn_as_a_chain(store: Store) -> None:
    nights: list[Artifact] = []
    for number in range(4):
        out = store.scratch("x")
        out.mkdir(parents=True)
        (out / "data.json").write_text(str(number))
        history: dict[str, Reference | list[Reference] | None] = {"history": [night.reference for night in nights]}
        request = Request(stage="deduplicate", version=1, inputs=history, settings={}, code={}, libraries={})
        nights.append(store.commit(request, out, {}))

    graph = ancestors([nights[-1]], beside(nights[-1]))

    assert [node.reference for node in graph.nodes] == [night.reference for night in nights]
    assert graph.edges == {
        (before.reference, after.reference): (f"history.{number}",)
        for number, (before, after) in enumerate(pairwise(nights))
    }
