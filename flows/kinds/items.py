"""Interactions: from logs of who had what to Arrow shards in which a user's history is a document of items."""

from prefect import flow

from tasks.core.artifact import Artifact
from tasks.corpus.interactions import InteractionsSettings, interactions, take_interactions_inventory


@flow(name="interactions", validate_parameters=False)
def interaction_shards(settings: InteractionsSettings) -> Artifact:
    """Read, order, thin out to the core. A night in which any log grew takes them all in anew."""
    return interactions.run(take_interactions_inventory(settings), None, settings)
