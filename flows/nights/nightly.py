"""The night: corpus, pre-training, fine-tuning, report; what a schedule starts and what `nightschool run` runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import TaskRunner

from flows.checks import check
from flows.kinds.corpus import corpus
from flows.kinds.finetune import Finetuned, finetune
from flows.kinds.images import image_shards
from flows.kinds.items import interaction_shards
from flows.kinds.pretrain import Pretrained, pretrain
from flows.nights.session import open_session
from flows.recipe import ImagesRecipe, InteractionsRecipe, Recipe, TextRecipe
from tasks.core.stage import check_stage_names
from tasks.core.store import Artifact
from tasks.release.report import NightOfText, ReportSettings, report


@dataclass(frozen=True)
class Released:
    """What a night of text leaves behind."""

    pretrained: Pretrained
    finetuned: Finetuned | None
    report: Artifact


EnterFlow = Callable[..., Any]
"""How a flow is entered: by Prefect, or, for a plan, as a plain function."""


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
            return _night_of_text(recipe, call, runner)


def _night_of_text(recipe: TextRecipe, call: EnterFlow, runner: TaskRunner[Any]) -> Released:
    """Corpus, model, fine-tuning, report, in this order."""
    data = call(corpus.with_options(task_runner=runner), recipe)
    tonight = data.tonight
    model = call(pretrain, recipe, data)
    tuned = call(finetune, recipe.finetune, data, model) if recipe.finetune else None
    made = NightOfText(
        ingested=tonight.ingested,
        filtered=tonight.filtered,
        deduplicated=tonight.deduplicated,
        decontaminated=tonight.decontaminated,
        tokenizer=data.tokenizer,
        tokens=data.tokens,
        model=model.model,
        evaluation=model.evaluation,
        export=model.export,
        finetuned=tuned and tuned.pretrained,
        scratch=tuned and tuned.scratch,
        baseline=tuned and tuned.baseline,
    )
    written = report.run(made, ReportSettings(title=recipe.name))
    return Released(model, tuned, written)


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
