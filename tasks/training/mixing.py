"""Which documents a training reads, and in what shares: the recipe's mixture, and of later nights new ones and old.

Costs a look at the lengths of all documents, and only where a mixture names sources (25 ms a million documents).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from models.spec import Source
from tasks.core.errors import UserError

REPEATS = 4
"""How often new documents are read at most, in place of old ones: up to four epochs of the same text teach nearly as
much as new text does (Muennighoff et al. 2023, "Scaling Data-Constrained Language Models")."""


def mix(
    new: Sequence[Path],
    old: Sequence[Path],
    *,
    mixture: Mapping[str, float],
    replay: float,
    tokens: int,
    window: int,
) -> tuple[Source, ...]:
    """What is read of new and old shards, with weights that add up to one.

    Of each source of the mixture (without one: of everything) new documents make up 1 - `replay` as long as nothing is
    read more than four times for that, and old ones the rest. Documents that do not fill a window alone are read
    together with the others.

    Args:
        new: shards of documents that no earlier night trained on, in canonical order.
        old: shards of those before.
        mixture: share of each source, of any sum; empty = all documents alike.
        replay: share of old documents.
        tokens: the budget of the training.
        window: tokens that one window needs, targets included.

    Raises UserError for a source that no document has, and for one (or a corpus) that does not fill a window.
    """
    counts_new, counts_old = count_tokens(new, bool(mixture)), count_tokens(old, bool(mixture))
    known = {*counts_new, *counts_old}
    if unknown := sorted(set(mixture) - known):
        raise UserError(
            f"The mixture of the pre-training names {', '.join(unknown)}, and no document comes from there; the corpus "
            f"has {', '.join(sorted(known))}."
        )
    everything = (*old, *new)
    sources: list[Source] = []
    for name, part in sorted((mixture or {"": 1.0}).items()):  # in the recipe's order the key would not say all
        share = part / sum(mixture.values() or (1.0,))
        label, only = name or "all", name or None
        fresh, known_before = counts_new[name], counts_old[name]
        if fresh + known_before < window:
            raise UserError(
                f"{f'The source {name}' if name else 'The corpus'} has {fresh + known_before:,} tokens to train on, "
                f"and one window needs {window:,}: add documents or shorten context_length."
            )
        of_new = min(1 - replay, REPEATS * fresh / (share * tokens))
        if min(fresh, known_before) < window:
            sources.append(Source(name=label, weight=share, shards=everything, only=only))
        elif of_new == 1:
            sources.append(Source(name=f"{label}, new", weight=share, shards=tuple(new), only=only))
        else:
            sources.append(Source(name=f"{label}, new", weight=share * of_new, shards=tuple(new), only=only))
            sources.append(Source(name=f"{label}, old", weight=share * (1 - of_new), shards=tuple(old), only=only))
    return tuple(sources)


def count_tokens(shards: Sequence[Path], by_source: bool) -> Counter[str]:
    """Tokens in shards, by the documents' source, or all under the empty name."""
    counts: Counter[str] = Counter()
    for shard in shards:
        with pa.memory_map(str(shard)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                tokens = batch.column("tokens")
                if not by_source:
                    counts[""] += len(tokens.flatten())
                    continue
                lengths = pa.table({"source": batch.column("source"), "tokens": pc.list_value_length(tokens)})
                for row in lengths.group_by("source").aggregate([("tokens", "sum")]).to_pylist():
                    counts[row["source"]] += row["tokens_sum"]
    return counts
