"""The learning rate is a function of the step, only matrices decay, and Muon moves the hidden ones."""

from copy import deepcopy
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn

from models.fit import fit
from models.learn.checkpoint import State, restore_optimisation, restore_weights, save_checkpoint
from models.learn.optimizers import hidden_matrices, learning_rate, optimizer_for, orthogonalise
from models.machine.ranks import Ranks
from models.process.progress import read_reports
from models.spec import Optimisation
from models.text.transformer import Transformer, fresh
from tests.models.shards import TINY, stream_spec


def test_the_rate_rises_stays_and_falls() -> None:
    settings = Optimisation(learning_rate=2.0, warmup_steps=4, cooldown_steps=10)
    rates = [learning_rate(step, 30, settings) for step in range(30)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert set(rates[3:21]) == {2.0}
    assert rates[21:] == pytest.approx([2 * (1 - sqrt(i / 10)) for i in range(1, 10)])


@given(steps=st.integers(1, 200), warmup=st.integers(0, 200), cooldown=st.integers(0, 200), peak=st.floats(1e-6, 10))
def test_the_rate_is_always_between_zero_and_its_peak(steps: int, warmup: int, cooldown: int, peak: float) -> None:
    settings = Optimisation(learning_rate=peak, warmup_steps=warmup, cooldown_steps=cooldown)
    assert all(0 < learning_rate(step, steps, settings) <= peak for step in range(steps))


SETTINGS = Optimisation(learning_rate=1e-2, warmup_steps=0, cooldown_steps=0, weight_decay=0.3)
MUON = SETTINGS.model_copy(update={"algorithm": "muon"})
HIDDEN = ("query", "key", "value", "out", "gate", "up", "down")


def some_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) if parameter.requires_grad else None


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("settings", [SETTINGS, MUON])
def test_norms_and_biases_do_not_decay(settings: Optimisation) -> None:
    model = fresh(TINY.model_copy(update={"classes": 3}), 0)
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer_for(model, settings).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.0 if "norm" in name or name.endswith("bias") else 0.3), name


def test_muon_is_for_the_matrices_of_the_blocks() -> None:
    model = fresh(TINY.model_copy(update={"classes": 3}), 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden = {names[id(parameter)] for parameter in hidden_matrices(model)}
    assert hidden == {name for name in names.values() if name.split(".")[-2] in HIDDEN}
    assert len(hidden) == 7 * TINY.layers


def test_muon_finds_the_hidden_matrices_of_foreign_models() -> None:
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    models = {
        GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2)): 4 * 2,
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                tie_word_embeddings=False,
            )
        ): 7 * 2,
        BertForMaskedLM(
            BertConfig(
                vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
            )
        ): 6 * 2,
    }  # fmt: skip
    for model, expected in models.items():
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        hidden = [names[id(parameter)] for parameter in hidden_matrices(model)]
        assert len(hidden) == expected, hidden
        assert all(".0." in name or ".1." in name for name in hidden)
        assert not any("embed" in name or "wte" in name or "lm_head" in name for name in hidden)


class Tied(nn.Module):
    """A layer whose matrix is the embedding as well, and two layers that share one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(3))
        self.layers[0].weight = self.embedding.weight
        self.layers[1].weight = self.layers[2].weight


def test_tied_weights_count_once_and_never_as_hidden_when_an_embedding_uses_them() -> None:
    model = Tied()
    assert [id(parameter) for parameter in hidden_matrices(model)] == [id(model.layers[2].weight)]
    optimizer = optimizer_for(model, MUON)
    assert sorted(id(p) for group in optimizer.param_groups for p in group["params"]) == sorted(
        id(p) for p in (model.embedding.weight, model.layers[2].weight)
    )


def test_what_does_not_learn_is_left_alone_and_muon_without_hidden_matrices_is_adamw() -> None:
    model = fresh(TINY.model_copy(update={"classes": 3}), 0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("classifier")
    optimizer = optimizer_for(model, MUON)
    assert type(optimizer) is torch.optim.AdamW
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_one_step_is_torchs_muon_and_torchs_adamw() -> None:
    """Hidden matrices but for bf16 rounding of the batched products, all else bit for bit."""
    ours, theirs = fresh(TINY, 0), fresh(TINY, 0)
    hidden = hidden_matrices(theirs)
    by_muon = {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in theirs.parameters() if id(parameter) not in by_muon]
    groups = [
        {"params": [p for p in rest if p.ndim == 2], "weight_decay": 0.3},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers = [
        optimizer_for(ours, MUON),
        torch.optim.Muon(hidden, lr=1e-2, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), fused=True),
    ]
    before = weights(ours)
    for step in range(3):
        some_gradients(ours, step)
        some_gradients(theirs, step)
        for optimizer in optimizers:
            optimizer.step()
    hidden_names = {name for name, parameter in theirs.named_parameters() if id(parameter) in by_muon}
    for name, expected in weights(theirs).items():
        moved, expected_move = weights(ours)[name] - before[name], expected - before[name]
        if name in hidden_names:
            assert (moved - expected_move).norm() < 0.02 * expected_move.norm(), name
        else:
            assert torch.equal(moved, expected_move), name


@given(
    count=st.integers(1, 3),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_an_orthogonalised_update_has_singular_values_near_one(
    count: int, rows: int, columns: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(rows * 41 + columns)
    # Well-conditioned: five rounds lift what is above a hundredth of the largest, not what is next to nothing.
    u, _, v = torch.linalg.svd(torch.randn(count, rows, columns, generator=generator), full_matrices=False)
    spectrum = torch.linspace(0.2, 1.0, min(rows, columns))
    updates = (scale * (u * spectrum) @ v).to(torch.bfloat16)
    values = torch.linalg.svdvals(orthogonalise(updates).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("settings", [SETTINGS, MUON])
def test_a_step_without_gradients_moves_nothing_and_forgets_nothing(settings: Optimisation) -> None:
    """What a skipped step relies on: weights, decay and memory are as if it had not been."""
    courses = []
    for skip in (False, True):
        model = fresh(TINY, 0)
        optimizer = optimizer_for(model, settings)
        for step in range(4):
            if skip:
                optimizer.zero_grad(set_to_none=True)
                optimizer.step()
            some_gradients(model, step)
            optimizer.step()
        courses.append(weights(model))
    assert same(*courses)


@pytest.mark.parametrize("settings", [SETTINGS, MUON])
def test_a_restored_optimizer_goes_on_bit_for_bit(settings: Optimisation, tmp_path: Path) -> None:
    """By our checkpoint, and by torch's own state_dict."""
    model = fresh(TINY, 0)
    optimizer = optimizer_for(model, settings)
    for step in range(3):
        some_gradients(model, step)
        optimizer.step()
    checkpoint = save_checkpoint(tmp_path, State(3), model, optimizer, Ranks())
    by_checkpoint, by_state = fresh(TINY, 1), fresh(TINY, 2)
    restored = [optimizer_for(by_checkpoint, settings), optimizer_for(by_state, settings)]
    restore_weights(checkpoint, by_checkpoint)
    restore_optimisation(checkpoint, by_checkpoint, restored[0])
    by_state.load_state_dict(model.state_dict())
    restored[1].load_state_dict(deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        for each, its_optimizer in zip((model, by_checkpoint, by_state), (optimizer, *restored), strict=True):
            for group in its_optimizer.param_groups:
                group["lr"] = 1e-2 / step
            some_gradients(each, step)
            its_optimizer.step()
    assert same(weights(model), weights(by_checkpoint))
    assert same(weights(model), weights(by_state))


@pytest.mark.parametrize("settings", [SETTINGS, MUON])
def test_the_rate_of_the_groups_is_the_rate_of_every_weight(settings: Optimisation) -> None:
    model = fresh(TINY, 0)
    optimizer = optimizer_for(model, settings)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = weights(model)
    some_gradients(model, 0)
    optimizer.step()
    assert same(before, weights(model))


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned() -> None:
    model = fresh(TINY, 0)
    optimizer = optimizer_for(model, MUON)
    before = weights(model)

    def closure() -> Any:  # a tensor, as Lightning's are, where torch's stub says float
        optimizer.zero_grad()
        loss = model.logits(model(torch.arange(8)[None])).square().mean()
        loss.backward()
        return loss

    loss: Any = optimizer.step(closure)
    assert loss.item() > 0
    assert not same(before, weights(model))


def test_muon_learns_a_language_under_lightning(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=60)
    spec = spec.model_copy(update={"optimisation": spec.optimisation.model_copy(update={"algorithm": "muon"})})
    assert fit(spec).finished
    losses = [report.loss for report, _ in read_reports(spec.work / "progress.jsonl")]
    assert losses[0] > 4.1  # ln 64 = 4.16
    assert losses[-1] < 1.5


def three_steps(model: Transformer) -> None:
    optimizer = optimizer_for(model, MUON)
    for step in range(3):
        tokens = torch.randint(TINY.vocabulary, (4, 16), generator=torch.Generator().manual_seed(step))
        (model(tokens) * torch.linspace(0, 1, TINY.width)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def train_in_two_parts(rank: int, folder: Path) -> None:
    """One of two processes that hold half of every weight each; the first writes down what the whole became."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = fresh(TINY, 0)
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)
    three_steps(model)
    whole = {name: value.full_tensor() for name, value in model.state_dict().items()}
    if rank == 0:
        save_file(whole, folder / "whole.safetensors")
    torch.distributed.destroy_process_group()


def test_muon_of_a_sharded_model_is_muon_of_the_whole_one(tmp_path: Path) -> None:
    spawn(train_in_two_parts, (tmp_path,), nprocs=2)
    model = fresh(TINY, 0)
    three_steps(model)
    assert same(load_file(tmp_path / "whole.safetensors"), weights(model))
