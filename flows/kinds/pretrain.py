"""Pre-training: a model of the corpus, and how well it predicts documents that it has not seen."""

from dataclasses import dataclass

from prefect import flow

from flows.kinds.corpus import Corpus
from flows.nights.trunk import find_trunk
from flows.recipe import TextRecipe
from tasks.core.artifact import Artifact
from tasks.corpus.snapshot import teaching
from tasks.judging.evaluate import evaluate
from tasks.release.export import export
from tasks.training.pretrain import pretrain as train


@dataclass(frozen=True)
class Pretrained:
    """The model, its evaluation, and its folder in Hugging Face's format."""

    model: Artifact
    evaluation: Artifact
    export: Artifact


@flow(name="pretrain", validate_parameters=False)
def pretrain(recipe: TextRecipe, corpus: Corpus) -> Pretrained:
    """Train on the corpus, from the trunk of the night before where there is one; evaluate on its held-out documents,
    export."""
    tokens = teaching(corpus.tokens)
    previous = find_trunk(tokens, corpus.tokenizer, recipe.pretrain)
    model = train.run(tokens, corpus.tokenizer, previous, recipe.pretrain)
    start = recipe.pretrain.starting_model
    evaluation = evaluate.run(corpus.tokens, corpus.tokenizer, model, start, recipe.evaluate)
    exported = export.run(model, corpus.tokenizer, start)
    return Pretrained(model, evaluation, exported)
