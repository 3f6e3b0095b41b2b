"""The night: corpus, pre-training, fine-tuning, report; what a schedule starts and what `nightschool run` runs."""

from pathlib import Path

from prefect import flow

from flows.checks import check
from flows.kinds.images import image_shards
from flows.kinds.items import interaction_shards
from flows.kinds.text import EnterFlow, Released, night_of_text
from flows.nights.session import open_session
from flows.recipe import ImagesRecipe, InteractionsRecipe, Recipe, TextRecipe
from tasks.core.stage import check_stage_names


def night(recipe: Recipe, call: EnterFlow = lambda flow, *arguments: flow(*arguments)) -> Released | None:
    """The pipeline of the recipe's kind of data; of images and interactions, shards are all there is as yet."""
    runner = recipe.engine.task_runner()
    match recipe:
        case ImagesRecipe():
            call(image_shards.with_options(task_runner=runner), recipe.images)
            return None
        case InteractionsRecipe():
            call(interaction_shards.with_options(task_runner=runner), recipe.interactions)
            return None
        case TextRecipe():
            return night_of_text(recipe, call, runner)


@flow(name="nightly", validate_parameters=False)
def nightly(recipe: str, keep: list[str] | None = None, night_id: str | None = None) -> str:
    """Run a recipe and return the night's id.

    Args:
        recipe: path of the recipe, or the name of one that ships.
        keep: stages whose old output is accepted although their code or libraries have changed.
        night_id: the night to go on with; without it a retry of this flow run finds its own, and a new run begins one.
    """
    check_stage_names(keep or ())
    with open_session(Path(recipe), frozenset(keep or ()), night_id) as session:
        check(session.recipe)  # a night that cannot end well ends now, and stands in the ledger
        released = night(session.recipe)
        if released:
            session.publish(released.report, released.pretrained.export)
    return session.night.id
