"""Pre-training as a stage: what it asks the training process for, what it writes, and what it says when it cannot."""

from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from models.spec import Machine, MaskedToken, Masking, ModelConfig, Optimisation
from models.text.model_folder import load_model
from models.text.scaling_rules import SIZES, derived
from tasks.core.artifact import Artifact
from tasks.core.errors import UserError
from tasks.core.stage import StageLog
from tasks.training.pretrain import fresh_shape, mean_last_loss, objective_of, order_seed, pretrain, shape, weights_in
from tasks.training.schedule import Schedule, derived_settings, schedule
from tasks.training.settings import PretrainSettings
from tests.tasks.conftest import HeardLog, Small

TINY = PretrainSettings(
    layers=1, width=32, heads=2, kv_heads=1, context_length=32, batch=8, tokens=8 * 32 * 12, learning_rate=1e-2
)
MODEL = ModelConfig.sized(vocabulary=448, context_length=32, layers=1, width=32, heads=2, kv_heads=1)


def train(small: Small, settings: PretrainSettings, folder: Path, log: StageLog) -> dict[str, int | float]:
    """Into folder/out."""
    (folder / "out").mkdir()
    tokens = (small.tokens,)
    return pretrain(tokens, small.tokenizer, None, settings, folder / "out", folder / "work", folder / "cache", log)


def test_it_trains_in_a_process_of_its_own_and_reports_every_step(small: Small, tmp_path: Path) -> None:
    log = HeardLog()
    metrics = train(small, TINY, tmp_path, log)
    out = tmp_path / "out"
    written = {path.name for path in out.iterdir()}
    assert written >= {"config.json", "losses.parquet", "model.safetensors"}
    losses = pl.read_parquet(out / "losses.parquet")
    assert [(step, values["loss"]) for step, values in log.series if step] == list(
        zip(losses["step"], losses["loss"], strict=True)
    )
    assert metrics == {
        "steps": 12,
        "tokens_seen": 8 * 32 * 12,
        "weights": weights_in(out),
        "final_loss": losses["loss"].tail(1).item(),
        "skipped_steps": 0,
        "rollbacks": 0,
        "trunk_steps": 12 - round(0.2 * 12),
        "trunk_tokens": 8 * 32 * (12 - round(0.2 * 12)),
    }
    assert any("12 steps of 8" in line for line in log.lines)


def test_the_counted_weights_are_the_models(model: Artifact) -> None:
    trained = load_model(model.path)
    assert weights_in(model.path) == sum(parameter.numel() for parameter in trained.parameters())


def test_what_changes_no_bit_is_no_part_of_the_key() -> None:
    settings = PretrainSettings(checkpoint_every=3, milestone_every=9, machine=Machine(devices=2))
    assert settings.for_key() == PretrainSettings().for_key()


def test_a_size_is_short_for_its_numbers_and_enters_the_key_as_these() -> None:
    named = PretrainSettings(size="small")
    assert (named.layers, named.width, named.heads, named.kv_heads, named.context_length) == (4, 512, 8, 4, 512)
    spelled = PretrainSettings(layers=4, width=512, heads=8, kv_heads=4, context_length=512)
    assert named.for_key() == spelled.for_key()
    assert PretrainSettings(size="small", layers=7).layers == 7
    assert [PretrainSettings.model_validate({"size": name}).width for name in SIZES] == [
        size.width for size in SIZES.values()
    ]
    assert PretrainSettings(size="small", objective="masked_token").kv_heads == 8


def test_what_the_settings_leave_out_is_derived_and_the_log_says_from_what() -> None:
    log = HeardLog()
    found = schedule(PretrainSettings(tokens=100_000, warmup=0.5), MODEL, log)
    rules = derived(MODEL, 100_000)
    assert (found.batch, found.steps) == (rules.batch, rules.steps)
    assert found.optimisation.learning_rate == rules.optimisation.learning_rate
    assert found.optimisation.warmup_steps == round(rules.steps / 2)
    assert [line.partition(":")[0].rpartition(" ")[0] for line in log.lines] == [
        "batch",
        "learning rate",
        "weight decay",
        "cooldown steps",
    ]


def test_a_training_that_goes_on_is_warm_already_and_what_is_foretold_is_what_the_log_hears() -> None:
    for goes_on in (False, True):
        log = HeardLog()
        found = schedule(PretrainSettings(tokens=100_000), MODEL, log, goes_on)
        assert (found.optimisation.warmup_steps == 0) == goes_on
        assert any("warmup" in line for line in log.lines) != goes_on
        assert derived_settings(PretrainSettings(tokens=100_000), MODEL, goes_on) == log.lines


def test_what_the_settings_say_is_kept() -> None:
    log = HeardLog()
    asked = PretrainSettings(tokens=1 << 15, batch=4, learning_rate=0.5, weight_decay=0.0, warmup=0.0, cooldown=1.0)
    found = schedule(asked, MODEL, log)
    wanted = Optimisation(learning_rate=0.5, weight_decay=0.0, warmup_steps=0, cooldown_steps=256)
    assert found == Schedule(steps=256, batch=4, optimisation=wanted)
    assert log.lines == []


def test_a_derived_batch_can_be_cut_into_the_pieces_that_are_asked_for() -> None:
    assert schedule(PretrainSettings(tokens=100_000, accumulate=3), MODEL, StageLog()).batch % 3 == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": "gigantic"}, "Input should be 'tiny', 'mini'"),
        ({"masking": {"rate": 0.3}}, "masking is for `objective: masked_token`"),
        ({"batch": 8, "accumulate": 3}, r"batch \(8\) must be a multiple of accumulate \(3\)"),
        ({"width": 30, "heads": 4}, r"width \(30\) must be a multiple of heads \(4\)"),
        ({"heads": 4, "kv_heads": 3}, r"heads \(4\) must be a multiple of kv_heads \(3\)"),
        ({"mixture": {"a": 0.0}}, "every share of the mixture must be over 0"),
        ({"start": "somewhere", "layers": 2}, "brings its own shape: remove layers, or start"),
    ],
)
def test_settings_that_do_not_go_together_are_a_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        PretrainSettings.model_validate(settings)


def test_a_masked_objective_needs_a_tokenizer_with_a_mask(small: Small, wordpiece: Small) -> None:
    settings = PretrainSettings(objective="masked_token", masking=Masking(rate=0.3, corruption="mask"))
    assert objective_of(settings, wordpiece.tokenizer) == MaskedToken(mask_token=4, rate=0.3, corruption="mask")
    with pytest.raises(UserError, match="has no mask token"):
        objective_of(settings, small.tokenizer)


def test_every_night_of_a_trunk_has_an_order_of_its_own(tmp_path: Path) -> None:
    nights = [Artifact("pretrain", digest, tmp_path) for digest in ("a", "b")]
    seeds = {
        order_seed(0, None),
        order_seed(1, None),
        *(order_seed(seed, night) for seed in (0, 1) for night in nights),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert order_seed(7, None) == 7


def test_the_embedding_has_a_row_for_every_token(small: Small) -> None:
    assert shape(TINY, small.tokenizer) == fresh_shape(TINY, 448) == fresh_shape(TINY, 385) == MODEL


def test_a_corpus_without_shards_is_the_users_mistake(small: Small, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    none = Small(small.tokenizer, Artifact.of("tokenize", empty), small.examples)
    with pytest.raises(UserError, match="nothing to train on"):
        train(none, TINY, tmp_path, StageLog())


def test_the_last_loss_is_a_mean_over_the_last_tenth(tmp_path: Path) -> None:
    pl.DataFrame({"loss": [float(i) for i in range(20)]}).write_parquet(tmp_path / "losses.parquet")
    assert mean_last_loss(tmp_path / "losses.parquet") == 18.5
