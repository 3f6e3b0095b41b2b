"""The model: causal, padding does not matter, and its first weights depend on config and seed alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.spec import ModelConfig
from models.text.attention import attend, positions_within, visible_within
from models.text.transformer import fresh
from tests.models.shards import TINY, VOCABULARY


def test_a_later_token_changes_nothing_before_it() -> None:
    model = fresh(TINY, 0)
    tokens_BT = torch.randint(0, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))
    changed_BT = tokens_BT.clone()
    changed_BT[:, 9] = (changed_BT[:, 9] + 1) % VOCABULARY
    before, after = model(tokens_BT), model(changed_BT)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_padding_does_not_change_the_class() -> None:
    model = fresh(TINY.model_copy(update={"classes": 3}), 0)
    tokens_BT = torch.randint(1, VOCABULARY, (1, 7), generator=torch.Generator().manual_seed(1))
    padded_BT = torch.cat((tokens_BT, torch.zeros(1, 5, dtype=torch.int64)), dim=1)
    lengths_B = torch.tensor([7])
    torch.testing.assert_close(model.classify(model(tokens_BT), lengths_B), model.classify(model(padded_BT), lengths_B))


def test_first_weights_come_from_the_seed_and_a_head_leaves_them_alone() -> None:
    torch.manual_seed(123)
    one = fresh(TINY, 4).state_dict()
    other = fresh(TINY.model_copy(update={"classes": 3}), 4).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], fresh(TINY, 5).state_dict()["embedding.weight"])


def test_the_first_loss_is_that_of_a_guess() -> None:
    model = fresh(TINY, 0)
    tokens_BT = torch.randint(0, VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(1))
    loss = F.cross_entropy(model.logits(model(tokens_BT)).flatten(0, 1), tokens_BT.roll(-1, 1).flatten())
    assert abs(loss.item() - math.log(VOCABULARY)) < 0.05


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens do not fit"):
        fresh(TINY, 0)(torch.zeros((1, 17), dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "message"), [({"kv_heads": 3}, "multiple of kv_heads"), ({"head_width": 7}, "must be even")]
)
def test_an_impossible_shape_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(TINY.model_dump() | change)


def test_sizes_follow_from_few_numbers() -> None:
    config = ModelConfig.sized(vocabulary=100, context_length=8, layers=2, width=256, heads=4, kv_heads=2)
    assert (config.head_width, config.mlp_width) == (64, 704)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("T", [1, 24, 25])
def test_the_cpus_short_cut_is_the_same_attention(kv_heads: int, causal: bool, documents: bool, T: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, T, 16, generator=generator) for heads in (4, kv_heads, kv_heads))
    visible = visible_within(torch.tensor([[0] * 9 + [1] * 16, [0] * 25])[:, :T], causal) if documents else None
    short_cut = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), causal, visible)
    torch.testing.assert_close(short_cut.float(), attend(q, k, v, causal, visible), atol=0.03, rtol=0.03)


@pytest.mark.parametrize("causal", [True, False])
def test_one_document_is_no_mask_at_all(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 24, 16, generator=generator) for heads in (4, 2, 2))
    visible = visible_within(torch.zeros(2, 24, dtype=torch.int64), causal)
    torch.testing.assert_close(attend(q, k, v, causal, visible), attend(q, k, v, causal))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_places_begin_anew_in_each_document(sizes: list[int]) -> None:
    numbers_1T = torch.cat([torch.full((1, size), 3 + number) for number, size in enumerate(sizes)], dim=1)
    assert positions_within(numbers_1T)[0].tolist() == [place for size in sizes for place in range(size)]


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), causal=st.booleans())
def test_documents_of_a_window_are_computed_as_if_alone(sizes: list[int], causal: bool) -> None:
    """Positions need not restart: rotary attention knows differences only."""
    config = TINY.model_copy(
        update={"attention": "causal" if causal else "bidirectional", "context_length": 40, "tied": False}
    )
    model = fresh(config, 0)
    documents = [torch.randint(0, VOCABULARY, (1, size)) for size in sizes]
    numbers_1T = torch.cat([torch.full((1, size), number) for number, size in enumerate(sizes)], dim=1)
    with torch.no_grad():
        together = model.logits(model(torch.cat(documents, dim=1), numbers_1T))
        alone = torch.cat([model.logits(model(document)) for document in documents], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_bidirectional_model_sees_both_ways() -> None:
    model = fresh(TINY.model_copy(update={"attention": "bidirectional"}), 0)
    tokens_BT = torch.randint(0, VOCABULARY, (1, 16), generator=torch.Generator().manual_seed(1))
    changed_BT = tokens_BT.clone()
    changed_BT[:, 9] = (changed_BT[:, 9] + 1) % VOCABULARY
    assert ((model(tokens_BT) - model(changed_BT)).abs().amax(dim=2) > 0).all()


def test_an_output_layer_of_its_own_leaves_all_other_first_weights_alone() -> None:
    tied, untied = fresh(TINY, 4).state_dict(), fresh(TINY.model_copy(update={"tied": False}), 4).state_dict()
    assert untied.keys() - tied.keys() == {"output.weight"}
    assert all(torch.equal(tied[name], untied[name]) for name in tied)
