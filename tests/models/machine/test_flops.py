"""The arithmetic of a training step, counted by hand."""

import pytest

from models.machine.flops import flops_per_token, peak_flops
from models.spec import ModelConfig
from models.text.transformer import Transformer


def test_a_step_takes_six_flops_a_weight_and_twelve_a_score() -> None:
    config = ModelConfig.sized(vocabulary=1000, context_length=64, layers=3, width=128, heads=4, kv_heads=2)
    matrices = sum(p.numel() for p in Transformer(config).parameters() if p.ndim == 2)
    assert flops_per_token(config) == 6 * matrices + 12 * 3 * 4 * 32 * 64


def test_an_embedding_that_is_only_looked_up_multiplies_nothing() -> None:
    tied = ModelConfig.sized(vocabulary=1000, context_length=64, layers=3, width=128, heads=4, kv_heads=2)
    assert flops_per_token(tied.model_copy(update={"tied": False})) == flops_per_token(tied)
    classifier = tied.model_copy(update={"classes": 5})
    language, classes = flops_per_token(tied), flops_per_token(classifier)
    assert language is not None and classes is not None
    assert language - classes == 6 * 995 * 128


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce GTX 1080", None),
        ("AMD EPYC 9555", None),
    ],
)
def test_the_peak_of_known_gpus_is_looked_up(name: str, teraflops: float | None) -> None:
    assert peak_flops(name) == (teraflops and teraflops * 1e12)
