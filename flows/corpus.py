"""The corpus: from sources to Arrow shards of tokens."""

from dataclasses import dataclass

from prefect import flow

from flows.recipe import Recipe
from tasks.core.store import Artifact
from tasks.deduplicate import deduplicate
from tasks.filter import filter
from tasks.ingest import ingest, take_inventory
from tasks.tokenize import tokenize
from tasks.tokenizer import tokenizer


@dataclass(frozen=True)
class Corpus:
    """What the data stages put out, in their order."""

    ingested: Artifact
    filtered: Artifact
    deduplicated: Artifact
    tokenizer: Artifact
    tokens: Artifact


@flow(name="corpus", validate_parameters=False)
def corpus(recipe: Recipe) -> Corpus:
    """Ingest, clean, remove duplicates, tokenize."""
    ingested = ingest.run(take_inventory(recipe.ingest), recipe.ingest)
    filtered = filter.run(ingested, recipe.filter)
    deduplicated = deduplicate.run(filtered, recipe.deduplicate)
    trained = tokenizer.run(deduplicated, recipe.tokenizer)
    tokens = tokenize.run(deduplicated, trained, recipe.tokenize)
    return Corpus(ingested, filtered, deduplicated, trained, tokens)
