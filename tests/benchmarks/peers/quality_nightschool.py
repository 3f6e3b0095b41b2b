"""Our side of tests/benchmarks/quality.py: our transformer, optimizer, schedule and order of windows, in a bare loop.

Arguments: the data's folder and a JSON object with precision, batch, steps, seed and the fields of
models.spec.Optimisation.
"""

import json
import sys

import torch
from torch import Tensor

from models.learn.optimizers import learning_rate, optimizer_for
from models.objectives import next_token
from models.order.batch import Batch
from models.order.order import Order
from models.spec import Optimisation
from models.text.scaling_rules import standard_model
from models.text.transformer import fresh
from tests.benchmarks.peers.quality_loop import Corpus, measure


def main(folder: str, described: str) -> None:
    settings = json.loads(described)
    corpus = Corpus(folder)
    optimisation = Optimisation.model_validate(settings["optimisation"])
    model = fresh(standard_model("mini", corpus.vocabulary, context_length=corpus.context), settings["seed"])
    order = Order((len(corpus.train) - 1) // corpus.context, settings["seed"])

    def batch(step: int) -> tuple[Tensor, Tensor]:
        items = order.items(step * settings["batch"], settings["batch"])
        return corpus.windows([int(item) * corpus.context for item in items])

    def loss(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return next_token.loss(model, Batch(tokens_BT, targets_BT, torch.full((len(tokens_BT),), corpus.context)))

    def rate(step: int) -> float:
        return learning_rate(step, settings["steps"], optimisation)

    optimizer = optimizer_for(model, optimisation)
    print(json.dumps(measure(loss, model, optimizer, rate, batch, corpus, settings)))


if __name__ == "__main__":
    main(*sys.argv[1:])
