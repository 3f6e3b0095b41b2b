"""Losses: what the formulas say, one compiled graph, and no objective for a model that cannot serve it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.objectives import classification, masked_token, next_token
from models.objectives.losses import loss_for
from models.objectives.masked_token import at_positions
from models.order.batch import Batch
from models.spec import FitSpec, MaskedToken, ModelConfig
from models.text.transformer import Transformer, fresh
from tests.models.shards import TINY, VOCABULARY, examples_spec, stream_spec

BIDIRECTIONAL = TINY.model_copy(update={"attention": "bidirectional"})
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 7 + [2] * 4, [0] * 16, [0] + [1] * 15, [0] * 8 + [1] * 8])


def random_tokens(seed: int = 1, T: int = 16) -> Tensor:
    return torch.randint(0, VOCABULARY, (4, T), generator=torch.Generator().manual_seed(seed))


def a_batch(config: ModelConfig, document_mask: bool, seed: int = 1) -> Batch:
    documents_BT = DOCUMENTS if document_mask else None
    tokens_BT, lengths_B = random_tokens(seed), torch.full((4,), 16)
    if config.attention == "causal":
        return Batch(tokens_BT, tokens_BT.roll(-1, 1), lengths_B, None, documents_BT)
    picked_BK = torch.tensor([[1, 9], [0, 15], [2, 3], [7, 8]])
    return Batch(tokens_BT.scatter(1, picked_BK, 2), tokens_BT.gather(1, picked_BK), lengths_B, picked_BK, documents_BT)


def masked_spec(folder: Path, model: ModelConfig = BIDIRECTIONAL) -> FitSpec:
    spec = stream_spec(folder, model=model)
    return spec.model_copy(update={"data": spec.data.model_copy(update={"objective": MaskedToken(mask_token=2)})})


@given(st.lists(st.sets(st.integers(0, 6), min_size=2, max_size=2), min_size=1, max_size=4))
def test_positions_pick_each_windows_own_states(picked: list[set[int]]) -> None:
    picked_BK = torch.tensor([sorted(positions) for positions in picked])
    states_BTD = torch.randn(len(picked), 7, 3)
    one_by_one = [states_BTD[row, position] for row, positions in enumerate(picked) for position in sorted(positions)]
    assert torch.equal(at_positions(states_BTD, picked_BK), torch.stack(one_by_one))


@pytest.mark.parametrize("document_mask", [False, True])
def test_only_hidden_tokens_are_predicted(document_mask: bool) -> None:
    model, batch = fresh(BIDIRECTIONAL, 0), a_batch(BIDIRECTIONAL, document_mask)
    assert batch.picked_BK is not None
    everywhere = torch.full((4, 16), -100).scatter(1, batch.picked_BK, batch.targets)
    logits_BTV = model.logits(model(batch.tokens_BT, batch.documents_BT))
    expected = F.cross_entropy(logits_BTV.flatten(0, 1), everywhere.flatten(), ignore_index=-100)
    torch.testing.assert_close(masked_token.loss(model, batch), expected)


def test_the_loss_is_float32_even_where_the_logits_are_not() -> None:
    model = fresh(TINY, 0)
    batch = a_batch(TINY, document_mask=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = next_token.loss(model, batch)
        logits_BTV = model.logits(model(batch.tokens_BT))
    assert logits_BTV.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert torch.equal(loss, F.cross_entropy(logits_BTV.float().flatten(0, 1), batch.targets.flatten()))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("config", [TINY, BIDIRECTIONAL], ids=["next_token", "masked_token"])
def test_model_and_loss_compile_to_one_graph_for_all_steps(
    config: ModelConfig, document_mask: bool, precision: str
) -> None:
    loss = next_token.loss if config.attention == "causal" else masked_token.loss
    graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=count, fullgraph=True)
    model = fresh(config, 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for step in range(3):
            batch = a_batch(config, document_mask, seed=step)
            torch.testing.assert_close(compiled(model, batch), loss(model, batch))
            compiled(model, batch).backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            model.zero_grad()
    assert graphs == 1


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_padding_changes_no_classification(attention: str) -> None:
    config = TINY.model_copy(update={"attention": attention, "classes": 3})
    model: Transformer = fresh(config, 0)
    tokens_BT, targets_B, lengths_B = random_tokens(T=7), torch.tensor([0, 1, 2, 0]), torch.full((4,), 7)
    padded_BT = torch.cat((tokens_BT, torch.zeros(4, 5, dtype=torch.int64)), dim=1)
    torch.testing.assert_close(
        classification.loss(model, Batch(padded_BT, targets_B, lengths_B)),
        classification.loss(model, Batch(tokens_BT, targets_B, lengths_B)),
    )


def test_each_objective_has_its_loss(tmp_path: Path) -> None:
    assert loss_for(stream_spec(tmp_path)) is next_token.loss
    assert loss_for(masked_spec(tmp_path)) is masked_token.loss
    assert loss_for(examples_spec(tmp_path)) is classification.loss


def test_a_model_learns_to_predict_only_what_it_does_not_see(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="next_token needs attention: causal, and the model's is bidirectional"):
        loss_for(stream_spec(tmp_path, model=BIDIRECTIONAL))
    with pytest.raises(ValueError, match="masked_token needs attention: bidirectional, and the model's is causal"):
        loss_for(masked_spec(tmp_path, model=TINY))
