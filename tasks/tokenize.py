"""Turns documents into Arrow shards of token ids that training maps into memory.

Every record carries its document's id, so any token that a model saw leads back to its document. Ids go from the
encoder into Arrow buffers through numpy, without a list of Arrow values; the encoder's own lists live for one batch.
The shards are Arrow IPC *files* (random access to any batch): `datasets.load_dataset("arrow", data_files=...)` reads
them, `Dataset.from_file`, which expects the stream format, does not.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from tasks.core.stage import Metrics, StageLog, stage
from tasks.core.store import Artifact
from tasks.documents import read_documents
from tasks.split import is_heldout, read_split
from tasks.tokenizer import END_OF_TEXT_ID, load_tokenizer

BATCH_BYTES = 2_000_000


class TokenizeSettings(BaseModel):
    """How tokens are divided into files."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    shard_tokens: int = Field(default=1 << 26, ge=1)
    """A shard is closed when it has at least this many tokens (67 million: 134 MB at 2 bytes a token)."""


@stage(version=1, libraries=("tokenizers", "pyarrow"))
def tokenize(documents: Artifact, tokenizer: Artifact, settings: TokenizeSettings, out: Path, log: StageLog) -> Metrics:
    """Write train-*.arrow and heldout-*.arrow: doc_id, source, bytes (of UTF-8), tokens, each ending in end-of-text.

    At least one shard of each split is written, if need be an empty one. Metrics count documents, bytes and tokens
    of both splits.
    """
    encoder = load_tokenizer(tokenizer)
    dtype = token_dtype(encoder)
    writers = {split: _ShardWriter(out, split, dtype, settings.shard_tokens) for split in ("train", "heldout")}
    heldout = read_split(tokenizer)
    done = 0
    for batch in _batches(documents):
        tokens, lengths = encode(encoder, batch["text"].to_list(), dtype)
        held = is_heldout(batch["doc_id"], heldout).to_numpy()
        rows = batch.select("doc_id", "source", bytes=pl.col("text").str.len_bytes().cast(pl.Int32)).to_arrow()
        owner = np.repeat(held, lengths)
        for split, mask, owned in (("train", ~held, ~owner), ("heldout", held, owner)):
            writers[split].write(rows.filter(pa.array(mask)), tokens[owned], lengths[mask])
        done += batch.height
        log.progress(done, documents.metrics.get("kept", 0), "documents")
    counts: Metrics = {"vocabulary": encoder.get_vocab_size()}
    for split, writer in writers.items():
        writer.close()
        counts |= {f"{split}_{name}": value for name, value in writer.counts.items()}
    log.info(f"{counts['train_tokens']:,} tokens to train on, {counts['heldout_tokens']:,} held out")
    return counts


def token_dtype(encoder: Tokenizer) -> type[np.unsignedinteger]:
    """The smallest type that holds every id: uint16 up to 65,536 tokens, else uint32."""
    return np.uint16 if encoder.get_vocab_size() <= 1 << 16 else np.uint32


def encode(
    encoder: Tokenizer, texts: list[str], dtype: type[np.unsignedinteger]
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """Ids of all texts in one array (shape [tokens]), each text ending in end-of-text, and their lengths (int64).

    Special tokens spelled out in a text are encoded as ordinary text: a document cannot end itself.
    """
    encodings = encoder.encode_batch_fast(texts, add_special_tokens=False)
    lengths = np.array([len(encoding) + 1 for encoding in encodings], dtype=np.int64)
    tokens = np.empty(int(lengths.sum()), dtype=dtype)
    start = 0
    for encoding, length in zip(encodings, lengths.tolist(), strict=True):
        tokens[start : start + length - 1] = encoding.ids
        tokens[start + length - 1] = END_OF_TEXT_ID
        start += length
    return tokens, lengths


def token_lists(tokens: NDArray[np.unsignedinteger], lengths: NDArray[np.int64]) -> pa.ListArray:
    """An Arrow list column over the tokens (shape [tokens]) without copying them."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens))


def _batches(documents: Artifact) -> Iterator[pl.DataFrame]:
    """Documents in order, about 2 MB of text at a time."""
    for batch in read_documents(documents):
        cut = batch["text"].str.len_bytes().cum_sum() // BATCH_BYTES
        yield from batch.with_columns(_cut=cut).partition_by("_cut", maintain_order=True, include_key=False)


class _ShardWriter:
    """Writes one split's shards: opens the next one when the last is full."""

    def __init__(self, folder: Path, split: str, dtype: type[np.unsignedinteger], shard_tokens: int) -> None:
        self.folder = folder
        self.split = split
        self.shard_tokens = shard_tokens
        self.counts = {"documents": 0, "bytes": 0, "tokens": 0, "shards": 0}
        token = pa.field("item", pa.from_numpy_dtype(dtype))
        self.schema = pa.schema(
            [
                ("doc_id", pa.string()),
                ("source", pa.string()),
                ("bytes", pa.int32()),
                ("tokens", pa.list_(token)),
            ]
        )
        self._shard: pa.RecordBatchFileWriter | None = None
        self._room = 0

    def write(self, rows: pa.Table, tokens: NDArray[np.unsignedinteger], lengths: NDArray[np.int64]) -> None:
        if not rows.num_rows:
            return
        self._shard = self._shard or self._open()
        table = rows.append_column("tokens", token_lists(tokens, lengths)).cast(self.schema).combine_chunks()
        self._shard.write_table(table)
        self.counts["documents"] += rows.num_rows
        self.counts["bytes"] += int(pc.sum(rows["bytes"]).as_py())
        self.counts["tokens"] += len(tokens)
        self._room -= len(tokens)
        if self._room <= 0:
            self._shard.close()
            self._shard = None

    def close(self) -> None:
        if self._shard is None and not self.counts["shards"]:
            self._shard = self._open()
        if self._shard is not None:
            self._shard.close()

    def _open(self) -> pa.RecordBatchFileWriter:
        path = self.folder / f"{self.split}-{self.counts['shards']:05d}.arrow"
        self.counts["shards"] += 1
        self._room = self.shard_tokens
        return pa.ipc.new_file(str(path), self.schema)
