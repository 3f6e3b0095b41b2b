"""Turns documents into Arrow shards of token ids that training maps into memory.

Every record carries its document's id, so any token that a model saw leads back to its document. A file of documents
becomes a shard of each split with the same number, whoever encodes it, so memory follows the file (32 MB of text).
Texts and ids stay in Arrow and numpy buffers throughout: 150 MB of text from Parquet to shards take 2.8 s of processor
time and 420 MB of memory, start-up included (`python -m tests.benchmarks.tokenize`).
The shards are Arrow IPC *files* (random access to any batch): `datasets.load_dataset("arrow", data_files=...)` reads
them, `Dataset.from_file`, which expects the stream format, does not.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from models.settings import Settings
from tasks.core.artifact import Artifact
from tasks.core.batches import Batches, Facts
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.documents import SCHEMA, document_files
from tasks.corpus.heldout import is_heldout, read_split
from tasks.tokens.encode import as_arrow, encoder, fault_of

SPLITS = ("train", "heldout")
COUNTS = ("documents", "bytes", "tokens")
PART_BYTES = 4_000_000  # of text in a record batch: bounds what is in memory beside the shard's own pages


class TokenizeSettings(Settings):
    """How far the fast engine is trusted."""

    checked: int = Field(default=32, ge=1, le=1_000_000)
    """Documents of each file, evenly spread, whose first 2,000 characters are encoded by `tokenizers` too; any
    difference makes it encode everything."""


@stage(version=2)
def tokenize(
    documents: Artifact,
    tokenizer: Artifact,
    settings: TokenizeSettings,
    out: Path,
    log: StageLog,
    batches: Batches,
) -> Metrics:
    """Write train-*.arrow and heldout-*.arrow: doc_id, source, bytes (of UTF-8), tokens, each ending in end-of-text.

    Shards are numbered like the files of documents; there is at least one of each split, if need be an empty one.
    Metrics count documents, bytes and tokens of both splits.
    """
    files: list[Path | None] = [*document_files(documents)] or [None]
    heldout = read_split(tokenizer)
    fault = fault_of(tokenizer)
    if fault is None:
        work = partial(_encode_file, tokenizer=tokenizer, heldout=heldout, engine="gigatoken", checked=settings.checked)
        done = batches.map("gigatoken", work, files)
        differing = [batch.facts["differs"] for batch in done if "differs" in batch.facts]
        fault = f"it encodes the document {differing[0]} differently" if differing else None
    if fault is not None:
        log.info(f"gigatoken is not used: {fault}; the ids are those of tokenizers, at a fiftieth of the speed")
        work = partial(_encode_file, tokenizer=tokenizer, heldout=heldout, engine="tokenizers", checked=0)
        done = batches.map("tokenizers", work, files)
    counts: Metrics = {"vocabulary": done[0].facts["vocabulary"]}
    for split in SPLITS:
        for path, batch in zip(files, done, strict=True):
            number = path.stem.removeprefix("documents-") if path else "00000"
            batch.hand_over(f"{split}.arrow", out / f"{split}-{number}.arrow")
        counts |= {f"{split}_{name}": sum(batch.facts[split][name] for batch in done) for name in COUNTS}
        counts[f"{split}_shards"] = len(files)
    log.info(f"{counts['train_tokens']:,} tokens to train on, {counts['heldout_tokens']:,} held out")
    return counts


def token_lists(tokens: NDArray[np.unsignedinteger], lengths: NDArray[np.int64]) -> pa.ListArray:
    """An Arrow list column over the tokens (shape [tokens]) without copying them."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(as_arrow(offsets), as_arrow(tokens))


def _encode_file(
    path: Path | None, folder: Path, *, tokenizer: Artifact, heldout: float, engine: str, checked: int
) -> Facts:
    """Write one file's train.arrow and heldout.arrow, or say which of its documents the engine encodes differently."""
    encode = encoder(tokenizer, engine)
    schema = pa.schema(
        [
            ("doc_id", pa.string()),
            ("source", pa.string()),
            ("bytes", pa.int32()),
            ("tokens", pa.list_(pa.from_numpy_dtype(encode.dtype))),
        ]
    )
    facts: Facts = {"vocabulary": encode.vocabulary}
    facts |= {split: dict.fromkeys(COUNTS, 0) for split in SPLITS}
    writers = {split: pa.ipc.new_file(str(folder / f"{split}.arrow"), schema) for split in SPLITS}
    for part, chosen in _parts(path, checked) if path else ():
        ids, texts, sources = part.columns
        different = encode.first_difference(texts.take(as_arrow(chosen))) if len(chosen) else None
        if different is not None:
            return {"differs": ids[int(chosen[different])].as_py()}
        lists = token_lists(*encode(texts))
        sizes = pc.binary_length(texts).cast(pa.int32())
        rows = pa.RecordBatch.from_arrays([ids, sources, sizes, lists], schema=schema)
        held = is_heldout(pl.Series(ids), heldout).to_arrow()
        for split, mask in zip(SPLITS, (pc.invert(held), held), strict=True):
            if mask.true_count:
                side = rows if mask.true_count == len(mask) else rows.filter(mask)
                writers[split].write_batch(side)
                facts[split]["documents"] += side.num_rows
                facts[split]["bytes"] += pc.sum(side["bytes"]).as_py()
                facts[split]["tokens"] += len(side["tokens"].flatten())
    for writer in writers.values():
        writer.close()
    return facts


def _parts(path: Path, checked: int) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int64]]]:
    """The documents of a file, some 4 MB at a time, and which of each part are to be checked, evenly spread."""
    with pq.ParquetFile(path, memory_map=True) as file:
        documents = file.metadata.num_rows
        size = sum(file.metadata.row_group(index).total_byte_size for index in range(file.num_row_groups))
        spread = np.unique(np.linspace(0, documents - 1, min(checked, documents)).astype(np.int64))
        rows = max(1, documents * PART_BYTES // max(1, size))
        start = 0
        for part in file.iter_batches(rows, columns=SCHEMA.names, use_threads=False):
            stop = start + part.num_rows
            yield part.cast(SCHEMA), spread[(spread >= start) & (spread < stop)] - start
            start = stop
