"""Settings follow from size and tokens by published rules, and each says which."""

import subprocess
import sys
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text.scaling_rules import SIZES, all_weights, derived, hidden_weights, standard_model
from models.text.transformer import fresh


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_weights_are_counted_as_the_model_has_them(attention: Literal["causal", "bidirectional"], tied: bool) -> None:
    config = standard_model("tiny", 320, attention=attention, tied=tied)
    model = fresh(config, 0)
    vocabulary = config.vocabulary * config.width
    if attention == "causal" and tied:  # what the transformer of this version builds
        assert sum(p.numel() for p in model.parameters()) == all_weights(config)
    assert all_weights(config) - hidden_weights(config) == (vocabulary if tied else 2 * vocabulary)


def test_standard_sizes_are_those_of_the_literature() -> None:
    shapes = {name: (m.layers, m.width, m.heads, m.head_width) for name in SIZES for m in [standard_model(name, 100)]}
    assert shapes == {
        "tiny": (2, 128, 2, 64),
        "mini": (4, 256, 4, 64),
        "small": (4, 512, 8, 64),
        "medium": (8, 512, 8, 64),
        "base": (12, 768, 12, 64),
        "large": (24, 1024, 16, 64),
        "xl": (24, 2048, 32, 64),
    }
    assert standard_model("mini", 100).kv_heads == 2
    assert standard_model("mini", 100, attention="bidirectional").kv_heads == 4
    assert standard_model("mini", 100, context_length=77).context_length == 77


def test_an_unknown_size_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="There is no size 'huge': choose one of tiny, mini, small, medium, base"):
        standard_model("huge", 100)


def test_the_quickstarts_model_gets_what_the_law_says() -> None:
    settings = derived(standard_model("mini", 8192), 1_500_000)
    assert hidden_weights(standard_model("mini", 8192)) == 2_951_936
    assert (settings.batch, settings.optimisation.learning_rate, settings.optimisation.weight_decay) == (8, 3.4e-3, 0.1)
    assert (settings.steps, settings.optimisation.warmup_steps, settings.optimisation.cooldown_steps) == (732, 73, 146)
    assert settings.because["learning_rate"] == ("1.79 N^-0.713 D^0.307 (Step Law, for N = 2,951,936 hidden weights)")


def test_a_large_model_gets_what_the_law_says() -> None:
    """N = 1.11e9, D = 1e11: 1.79 N^-0.713 D^0.307 = 1.51e-3 and 0.58 D^0.571 = 1.11 M tokens."""
    config = standard_model("xl", 65_536)
    settings = derived(config, 100_000_000_000)
    assert settings.optimisation.learning_rate == 1.5e-3
    assert settings.batch * config.context_length == 1 << 20
    assert settings.optimisation.warmup_steps == round(all_weights(config) / (1 << 20))


def test_without_a_budget_it_is_twenty_tokens_a_weight() -> None:
    config = standard_model("base", 50_304)
    settings = derived(config)
    assert settings.tokens == 20 * all_weights(config)
    assert "Hoffmann et al. 2022" in settings.because["tokens"]


def test_a_given_batch_is_kept_and_the_steps_follow() -> None:
    settings = derived(standard_model("mini", 8192), 1_500_000, batch=24)
    assert (settings.batch, settings.steps, settings.because["batch"]) == (24, 244, "as asked")


def test_masked_models_are_told_what_the_law_is_worth_to_them() -> None:
    settings = derived(standard_model("mini", 8192, attention="bidirectional"), 1_500_000)
    assert "taken over for want of one for masked tokens" in settings.because["learning_rate"]


@pytest.mark.parametrize(("tokens", "batch", "named"), [(0, None, "tokens"), (5, 0, "batch")])
def test_a_budget_of_nothing_is_refused(tokens: int, batch: int | None, named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be at least 1, not 0"):
        derived(standard_model("tiny", 100), tokens, batch)


@given(name=st.sampled_from(sorted(SIZES)), tokens=st.integers(1, 10**13), batch=st.none() | st.integers(1, 10**5))
def test_every_size_and_budget_gives_a_training_that_can_be(name: str, tokens: int, batch: int | None) -> None:
    config = standard_model(name, 8192)
    settings = derived(config, tokens, batch)
    assert settings.steps * settings.batch * config.context_length <= max(
        tokens, settings.batch * config.context_length
    )
    assert 0 < settings.optimisation.learning_rate <= 2**-7
    assert 0 <= settings.optimisation.warmup_steps <= max(1, settings.steps // 10)
    assert settings.optimisation.warmup_steps + settings.optimisation.cooldown_steps <= max(1, settings.steps)
    assert set(settings.because) == {
        *("tokens", "batch", "steps"),
        *("learning_rate", "weight_decay", "warmup_steps", "cooldown_steps"),
    }


def test_the_plan_does_not_pay_for_torch() -> None:
    code = "import sys, models.text.scaling_rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
