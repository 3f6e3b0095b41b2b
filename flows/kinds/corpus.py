"""The corpus: from sources to Arrow shards of tokens, a partition a night."""

from dataclasses import dataclass
from typing import Any

from prefect import flow

from flows.nights.partitions import find_partitions, remember
from flows.recipe import TextRecipe
from tasks.core.artifact import Artifact
from tasks.core.stage import Stage
from tasks.corpus.decontaminate import decontaminate, take_evaluation_inventory
from tasks.corpus.deduplicate import deduplicate
from tasks.corpus.filter import filter, require_documents
from tasks.corpus.ingest import ingest
from tasks.corpus.snapshot import Snapshot
from tasks.corpus.tokenize import tokenize
from tasks.corpus.tokenizer import tokenizer


@dataclass(frozen=True)
class Partition:
    """What the data stages made of one night's documents, in their order."""

    ingested: Artifact
    filtered: Artifact
    deduplicated: Artifact
    decontaminated: Artifact | None
    tokens: Artifact

    @property
    def documents(self) -> Artifact:
        """What is left to learn from."""
        return self.decontaminated or self.deduplicated


@dataclass(frozen=True)
class Corpus:
    """All partitions, the oldest first, and the tokenizer that the first one taught."""

    partitions: tuple[Partition, ...]
    tokenizer: Artifact

    @property
    def tonight(self) -> Partition:
        """The newest partition: what this night took in."""
        return self.partitions[-1]

    @property
    def documents(self) -> Snapshot:
        """The documents of all partitions that are left to learn from, the oldest partition first."""
        return tuple(partition.documents for partition in self.partitions)

    @property
    def tokens(self) -> Snapshot:
        """The token shards of all partitions, the oldest partition first."""
        return tuple(partition.tokens for partition in self.partitions)


@flow(name="corpus", validate_parameters=False)
def corpus(recipe: TextRecipe) -> Corpus:
    """Ingest what is new, clean it, remove what any night had before, tokenize it.

    The partitions of earlier nights are walked through too: they stand and are not told again, unless the recipe or the
    code has changed what they should be.
    """
    inventories = find_partitions(recipe)
    nights = [_Night(number, len(inventories) - 1) for number in range(len(inventories))]
    taken = [
        night.run(ingest, inventory, recipe.ingest.to_read(inventory))
        for night, inventory in zip(nights, inventories, strict=True)
    ]
    remember(recipe, inventories)
    partitions: list[Partition] = []
    words: Artifact | None = None
    for night, ingested in zip(nights, taken, strict=True):
        filtered = night.run(filter, ingested, recipe.filter)
        if night.number == 0:
            require_documents(filtered)
        history = tuple(partition.deduplicated for partition in partitions)
        deduplicated = night.run(deduplicate, filtered, history, recipe.deduplicate)
        clean = None
        if recipe.decontaminate.sets:
            evaluation = take_evaluation_inventory(recipe.decontaminate)
            clean = night.run(decontaminate, deduplicated, evaluation, recipe.decontaminate)
        words = words or tokenizer.run(clean or deduplicated, recipe.tokenizer)
        tokens = night.run(tokenize, clean or deduplicated, words, recipe.tokenize)
        partitions.append(Partition(ingested, filtered, deduplicated, clean, tokens))
    assert words is not None
    return Corpus(tuple(partitions), words)


@dataclass(frozen=True)
class _Night:
    """How a partition's stages are named and told: those of earlier nights carry its number."""

    number: int
    newest: int

    def run(self, stage: Stage, *arguments: Any) -> Artifact:
        if self.number == self.newest:
            return stage.run(*arguments)
        return stage.run(*arguments, node=f"{stage.name}-{self.number}", settled=True)
