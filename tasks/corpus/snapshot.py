"""The snapshot: the corpus as of a night, an ordered list of partitions; what training and evaluation read.

A partition is what one night took in. Each has artifacts of its own, which no later night touches; a snapshot is
nothing but their order. Its digest is what a resumed training must find unchanged.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from tasks.core.artifact import Artifact
from tasks.core.digest import digest
from tasks.corpus.documents import read_documents

Snapshot = tuple[Artifact, ...]
"""The artifacts of one stage for every partition, in the order of the nights."""


def snapshot_digest(snapshot: Snapshot) -> str:
    """One name for the partitions and their order."""
    return digest([artifact.digest for artifact in snapshot])


def teaching(tokens: Snapshot) -> Snapshot:
    """The partitions from which something can be learnt: a night of nothing but repetitions changes no model.

    One that is only promised (in a plan) counts. If there is none, all are returned, for the stage to complain of.
    """
    return tuple(artifact for artifact in tokens if artifact.metrics.get("train_tokens", 1)) or tokens


def shards_of(tokens: Snapshot, split: str) -> tuple[Path, ...]:
    """The Arrow shards of a split ("train" or "heldout") in canonical order: by partition, then by number."""
    return tuple(shard for artifact in tokens for shard in sorted(artifact.path.glob(f"{split}-*.arrow")))


def read_snapshot(documents: Snapshot) -> Iterator[pl.DataFrame]:
    """The documents of all partitions in canonical order, one file at a time."""
    for artifact in documents:
        yield from read_documents(artifact)
