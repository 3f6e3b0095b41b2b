"""Which documents are held out and which labels are bought: the two choices that several stages must make alike.

Both are arithmetic on what they are given (a document's id; a label's position), so no list of choices is stored or
passed around, and a document keeps its side whatever joins the corpus later. The share that is held out travels with
the tokenizer, the first thing that must not learn from it: whoever encodes with a tokenizer cannot draw another line.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.errors import UserError
from tasks.core.store import Artifact

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


def choose_labels(labels: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Positions (int64, shape [budget]) of a balanced, seeded choice of `budget` of the labels (int, shape [n]).

    Classes take turns in a seeded order, each drawing its examples in a seeded order, until the budget is spent:
    class counts differ by at most one unless a class runs out. A larger budget with the same seed contains the
    smaller one, so the points of a label-efficiency curve are nested.

    Raises UserError if there are fewer labels than the budget.
    """
    if budget > len(labels):
        raise UserError(
            f"A budget of {budget} labels was asked for and the pool has {len(labels)}: "
            "lower the budget of labels or enlarge the pool."
        )
    generator = np.random.default_rng(seed)
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    turn_of_class = generator.permutation(len(classes))
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    draw = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.lexsort((turn_of_class[inverse[by_class]], draw))
    return by_class[order[:budget]].astype(np.int64)
