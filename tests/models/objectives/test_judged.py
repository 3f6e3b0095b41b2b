"""Scoring: every token is counted once, however long its document is."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.objectives import surprise
from models.objectives.classification import predicted_classes
from models.objectives.masked_token import masked_bits
from models.objectives.next_token import document_bits
from models.order.examples import Examples
from models.spec import LabelledExamples, ModelConfig
from models.text.generate import continue_tokens
from models.text.transformer import fresh
from tests.models.shards import TINY, VOCABULARY, examples_spec


def test_short_documents_cost_what_one_pass_says() -> None:
    model = fresh(TINY, 0)
    documents = [
        np.array([5, 6, 7, 0]),
        np.array([0]),
        np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 10, 11, 12, 13, 14, 15, 0]),
    ]
    expected = []
    for document in documents:
        tokens_1T = torch.tensor([[0, *document[:-1]]])
        with torch.no_grad():
            nats = F.cross_entropy(model.logits(model(tokens_1T))[0], torch.tensor(document), reduction="sum")
        expected.append(float(nats) / np.log(2))
    np.testing.assert_allclose(document_bits(model, documents, first=0, batch=2), expected, rtol=1e-5)


def test_few_logits_at_a_time_and_bf16_products_change_no_more_than_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [np.arange(size) % VOCABULARY for size in (3, 16, 17, 100, 1)]
    model, masked = fresh(TINY, 0), fresh(TINY.model_copy(update={"attention": "bidirectional"}), 0)
    bits, (hidden, _) = document_bits(model, documents, first=0), masked_bits(masked, documents, mask_token=2)
    np.testing.assert_allclose(document_bits(model, documents, first=0, precision="bf16"), bits, rtol=0.01)
    np.testing.assert_allclose(masked_bits(masked, documents, 2, precision="bf16")[0], hidden, rtol=0.01)
    monkeypatch.setattr(surprise, "_LOGITS", 3 * VOCABULARY)
    np.testing.assert_allclose(document_bits(model, documents, first=0), bits, rtol=1e-5)
    np.testing.assert_allclose(masked_bits(masked, documents, mask_token=2)[0], hidden, rtol=1e-5)


def test_long_documents_are_counted_token_by_token() -> None:
    model = fresh(TINY, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # every token is equally likely: 6 bits of 64
    documents = [np.arange(size) % VOCABULARY for size in (1, 15, 16, 17, 24, 25, 100)]
    np.testing.assert_allclose(document_bits(model, documents, first=0), [6.0 * d.size for d in documents], rtol=1e-6)


def test_hidden_tokens_are_asked_in_their_place_and_counted_once() -> None:
    model = fresh(TINY.model_copy(update={"attention": "bidirectional"}), 0)
    document = np.array([5, 6, 7, 8, 9, 10, 11, 12])
    for rate, count in ((0.15, 1), (0.99, 8)):
        bits, counts = masked_bits(model, [document], mask_token=2, rate=rate)
        assert counts.tolist() == [count]
    with torch.no_grad():  # all are hidden: the model sees masks alone
        logits_TV = model.logits(model(torch.full((1, 8), 2)))[0]
        expected = F.cross_entropy(logits_TV, torch.from_numpy(document), reduction="sum") / np.log(2)
    np.testing.assert_allclose(bits, [float(expected)], rtol=1e-5)


def test_which_tokens_are_hidden_hangs_on_seed_and_place_alone() -> None:
    model = fresh(TINY.model_copy(update={"attention": "bidirectional"}), 0)
    documents = [np.arange(size) % VOCABULARY for size in (3, 16, 17, 100, 1)]
    bits, counts = masked_bits(model, documents, mask_token=2, rate=0.25)
    assert counts.tolist() == [1, 4, 5, 25, 1]
    for batch in (1, 3):
        again, _ = masked_bits(model, documents, mask_token=2, rate=0.25, batch=batch)
        np.testing.assert_allclose(again, bits, rtol=1e-5)
    fewer, _ = masked_bits(model, documents[:3], mask_token=2, rate=0.25)
    np.testing.assert_allclose(fewer, bits[:3], rtol=1e-5)
    other, _ = masked_bits(model, documents, mask_token=2, rate=0.25, seed=1)
    assert (other[:4] != bits[:4]).all()


def test_a_batch_does_not_change_a_class(tmp_path: Path) -> None:
    spec = examples_spec(tmp_path)
    assert isinstance(spec.model, ModelConfig) and isinstance(spec.data, LabelledExamples)
    model = fresh(spec.model, 1)
    examples = Examples(spec.data.test, None, 16)

    def classes(batch: int) -> list[int]:
        predicted = np.full(examples.n, -1)
        for indices, found in predicted_classes(model, examples, "float32", batch):
            predicted[indices] = found
        return predicted.tolist()

    assert classes(1) == classes(7) == classes(64)
    assert -1 not in classes(7)


def test_samples_are_the_seeds() -> None:
    model = fresh(TINY, 0)
    one, again, other = (
        continue_tokens(model, [0, 3], end_token=0, count=20, seed=seed, likeliest=64) for seed in (1, 1, 2)
    )
    assert one == again != other
    assert 0 not in one and len(one) <= 20
