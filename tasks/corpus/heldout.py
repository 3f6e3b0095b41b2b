"""Which documents are held out: arithmetic on a document's id, so that every stage draws the same line.

No list of choices is stored or passed around, and a document keeps its side whatever joins the corpus later. The share
that is held out travels with the tokenizer, the first thing that must not learn from it: whoever encodes with a
tokenizer cannot draw another line.
"""

import hashlib
import json
from pathlib import Path

import polars as pl

from tasks.core.artifact import Artifact

SPLIT_FILE = "split.json"
_RANGE = 2**64


def write_split(folder: Path, fraction: float) -> None:
    """Keep with a tokenizer which share of the documents it was not shown."""
    (folder / SPLIT_FILE).write_text(json.dumps({"heldout": fraction}) + "\n", encoding="utf-8")


def read_split(tokenizer: Artifact) -> float:
    """The share of documents that this tokenizer was not shown."""
    return float(json.loads((tokenizer.path / SPLIT_FILE).read_text(encoding="utf-8"))["heldout"])


def is_heldout(doc_ids: pl.Series, fraction: float) -> pl.Series:
    """Bool per id: True for about `fraction` (0 to 1) of all ids, the same ones in every run, version and machine.

    A larger fraction holds out a superset. About 1 microsecond an id (BLAKE2b, keyed with this use's name).
    """
    bound = int(fraction * _RANGE)
    return pl.Series(doc_ids.name, [_position(doc_id) < bound for doc_id in doc_ids.to_list()], dtype=pl.Boolean)


def _position(doc_id: str) -> int:
    digest = hashlib.blake2b(doc_id.encode(), digest_size=8, key=b"nightschool heldout").digest()
    return int.from_bytes(digest, "little")
