"""Which night took in what: by this record a night reads only what is new or has changed since.

A partition is the inventory of one ingest. The record is one JSON file a recipe, replaced as soon as a partition's
documents are committed, so that a kill before it means that the same files are found new again, and reused by their
key. Nothing else depends on it: without the file, everything is one partition of one night.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.nights.ledger import home_folder
from flows.recipe import TextRecipe
from tasks.core.errors import StageError
from tasks.core.stage import context
from tasks.corpus.ingest import take_inventory
from tasks.intake.inventory import Inventory


class Partitions(BaseModel):
    """The nights' inventories, the oldest first."""

    model_config = ConfigDict(frozen=True)
    inventories: tuple[Inventory, ...] = ()


def find_partitions(recipe: TextRecipe) -> tuple[Inventory, ...]:
    """The inventories of earlier nights, and one more of what the sources have had since; never none.

    What came from a source that has left the recipe leaves the corpus.
    """
    names = {source.name for source in recipe.ingest.sources}
    stocks = [[stock for stock in night.stocks if stock.source in names] for night in _read(recipe).inventories]
    known = tuple(Inventory(stocks=tuple(kept)) for kept in stocks if kept)
    news = take_inventory(recipe.ingest).minus(known)
    return known if known and news.is_empty else (*known, news)


def remember(recipe: TextRecipe, partitions: tuple[Inventory, ...]) -> None:
    """Keep that these partitions have been taken in (in a run; a plan keeps nothing)."""
    if partitions != _read(recipe).inventories:
        content = Partitions(inventories=partitions).model_dump_json(indent=1).encode()
        context.get().write(_file(recipe), content)


def _read(recipe: TextRecipe) -> Partitions:
    file = _file(recipe)
    try:
        return Partitions.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Partitions()
    except ValidationError as error:
        raise StageError(
            f"the record of what earlier nights took in, {file}, cannot be read; restore it, or remove it to take in "
            "everything anew"
        ) from error


def _file(recipe: TextRecipe) -> Path:
    return home_folder() / "partitions" / f"{recipe.name}.json"
