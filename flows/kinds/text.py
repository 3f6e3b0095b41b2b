"""Text: from sources to a model, its fine-tunes and the report of a night."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefect.task_runners import TaskRunner

from flows.kinds.corpus import corpus
from flows.kinds.finetune import Finetuned, finetune
from flows.kinds.pretrain import Pretrained, pretrain
from flows.recipe import TextRecipe
from tasks.core.artifact import Artifact
from tasks.release.report import NightOfText, ReportSettings, report

EnterFlow = Callable[..., Any]
"""How a flow is entered: by Prefect, or, for a plan, as a plain function."""


@dataclass(frozen=True)
class Released:
    """What a night of text leaves behind."""

    pretrained: Pretrained
    finetuned: Finetuned | None
    report: Artifact


def night_of_text(recipe: TextRecipe, call: EnterFlow, runner: TaskRunner[Any]) -> Released:
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
