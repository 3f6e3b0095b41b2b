"""Small Arrow shards with a language that can be learnt, and specs of trainings that take a second."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from models.spec import FitSpec, LabelledExamples, ModelConfig, Optimisation, Source, TokenStream

VOCABULARY = 64

TINY = ModelConfig.sized(vocabulary=VOCABULARY, context_length=16, layers=2, width=32, heads=4, kv_heads=2)


def write_shard(path: Path, documents: Sequence[Sequence[int]], rows_per_batch: int = 7) -> Path:
    """A shard as the tokenize stage writes it."""
    table = pa.table(
        {
            "doc_id": [f"{path.stem}/{i}" for i in range(len(documents))],
            "source": [("even", "odd")[i % 2] for i in range(len(documents))],
            "bytes": pa.array([3 * len(document) for document in documents], pa.int32()),
            "tokens": pa.array([np.asarray(d, np.uint16) for d in documents], pa.list_(pa.uint16())),
        }
    )
    return _write(path, table, rows_per_batch)


def write_examples(path: Path, sequences: Sequence[Sequence[int]], labels: Sequence[int]) -> Path:
    """Labelled examples as the examples stage writes them."""
    table = pa.table(
        {
            "doc_id": [f"{path.stem}/{i}" for i in range(len(labels))],
            "text": ["" for _ in labels],
            "label": pa.array(labels, pa.int32()),
            "tokens": pa.array([np.asarray(s, np.uint16) for s in sequences], pa.list_(pa.uint16())),
        }
    )
    return _write(path, table, 7)


def _write(path: Path, table: pa.Table, rows_per_batch: int) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return path


def counting_documents(count: int, seed: int = 0) -> list[list[int]]:
    """Documents that count upwards from a random token, so that the next token is easily learnt; token 0 ends each."""
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        start, length = generator.integers(0, VOCABULARY - 1), generator.integers(3, 40)
        documents.append([*(1 + (start + np.arange(length)) % (VOCABULARY - 1)).tolist(), 0])
    return documents


def stream_spec(folder: Path, steps: int = 30, **changes: object) -> FitSpec:
    """Pre-training of the tiny model on two shards below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = tuple(folder / f"train-{i:05d}.arrow" for i in range(2))
    for seed, shard in enumerate(shards):
        if not shard.exists():
            write_shard(shard, counting_documents(60, seed))
    spec = FitSpec(
        model=TINY,
        data=TokenStream(sources=(Source(name="all", shards=shards),), digest="of-the-shards"),
        optimisation=Optimisation(learning_rate=1e-2, warmup_steps=3, cooldown_steps=10),
        steps=steps,
        batch=8,
        seed=5,
        work=folder / "work",
        out=folder / "out",
        checkpoint_every=4,
    )
    return spec.model_copy(update=changes)


def examples_spec(folder: Path, steps: int = 40, **changes: object) -> FitSpec:
    """Classification by the tiny model: does the document count from a low or from a high token?"""
    folder.mkdir(parents=True, exist_ok=True)
    for split, seed in (("train", 1), ("test", 2)):
        documents = counting_documents(60, seed)
        labels = [int(document[0] > VOCABULARY // 2) for document in documents]
        write_examples(folder / f"{split}.arrow", documents, labels)
    spec = FitSpec(
        model=TINY.model_copy(update={"classes": 2}),
        data=LabelledExamples(
            train=folder / "train.arrow", rows=tuple(range(40)), test=folder / "test.arrow", digest="of-the-examples"
        ),
        optimisation=Optimisation(learning_rate=1e-2, warmup_steps=3, cooldown_steps=10),
        steps=steps,
        batch=8,
        seed=5,
        work=folder / "work",
        out=folder / "out",
    )
    return spec.model_copy(update=changes)


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
