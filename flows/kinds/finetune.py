"""Fine-tuning: what pre-training is good for, measured against the same training from scratch and a classic method."""

from dataclasses import dataclass

from prefect import flow

from flows.kinds.corpus import Corpus
from flows.kinds.pretrain import Pretrained
from flows.recipe import Finetuning
from tasks.core.artifact import Artifact
from tasks.corpus.examples import examples
from tasks.judging.baseline import baseline
from tasks.training.finetune import finetune as train


@dataclass(frozen=True)
class Finetuned:
    """Three answers to one labelled task, each from the same labels."""

    pretrained: Artifact
    scratch: Artifact
    baseline: Artifact


@flow(name="finetune", validate_parameters=False)
def finetune(settings: Finetuning, corpus: Corpus, pretrained: Pretrained) -> Finetuned:
    """Make the examples, fine-tune the pre-trained model and its from-scratch twin, fit the baseline."""
    labelled = examples.run(corpus.documents, corpus.tokenizer, settings.examples)
    twin = settings.training.model_copy(update={"start": "scratch"})
    tuned = train.run(labelled, corpus.tokenizer, pretrained.model, settings.training)
    scratch = train.run(labelled, corpus.tokenizer, pretrained.model, twin, node="finetune-scratch")
    classic = baseline.run(labelled, settings.baseline())
    return Finetuned(tuned, scratch, classic)
