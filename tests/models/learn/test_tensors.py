"""Tensors in files: whole, or in the parts that several processes hold, and read by any number of them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models.learn.checkpoint import newest_checkpoint
from models.learn.tensors import TensorPart, Tensors, write_tensors
from models.machine.ranks import Ranks
from models.spec import FitSpec, Machine
from tests.chaos.trainee import tree
from tests.models.shards import stream_spec
from tests.models.test_distributed import ended, started, train


def divided(folder: Path, whole: torch.Tensor, world: int) -> None:
    """Files as the processes of a divided model write them: FSDP gives each the next ceil(rows / world) rows."""
    chunk = -(-len(whole) // world)
    for rank in range(world):
        begin = min(len(whole), rank * chunk)
        places = f'{{"weight": [{begin}, {", ".join(map(str, whole.shape))}]}}'
        file = folder / f"model-{rank:05d}-of-{world:05d}.safetensors"
        save_file({"weight": whole[begin : begin + chunk].contiguous()}, file, {"places": places})


@given(rows=st.integers(1, 12), writers=st.integers(1, 5), readers=st.integers(1, 5))
def test_any_number_of_processes_reads_what_any_other_number_wrote(
    tmp_path_factory: pytest.TempPathFactory, rows: int, writers: int, readers: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    whole = torch.arange(rows * 3.0).reshape(rows, 3)
    divided(folder, whole, writers)
    chunk = -(-rows // readers)
    with Tensors(folder, "model") as stored:
        assert torch.equal(stored.read("weight"), whole)
        for reader in range(readers):
            begin = min(rows, reader * chunk)
            part = TensorPart(begin, min(chunk, rows - begin), (rows, 3))
            assert torch.equal(stored.read_rows("weight", part), whole[begin : begin + chunk])


def test_whole_tensors_are_one_file_that_safetensors_reads(tmp_path: Path) -> None:
    write_tensors(tmp_path, "model", {"weight": torch.ones(2, 3), "count": torch.tensor(7.0)}, Ranks())
    assert load_file(tmp_path / "model.safetensors")["count"] == 7
    with Tensors(tmp_path, "model") as stored:
        assert stored.names == ("count", "weight") and stored.read("count").shape == ()
        with pytest.raises(ValueError, match=r"lacks bias: it is one of another model"):
            stored.read("bias")


def test_each_process_gets_its_own_where_all_have_some_and_the_firsts_where_it_had_none(tmp_path: Path) -> None:
    for rank in range(2):
        write_tensors(tmp_path, "random", {"torch": torch.tensor([rank])}, Ranks(rank, 2), own=True)
    for rank, expected in ((0, 0), (1, 1), (2, 0)):
        with Tensors(tmp_path, "random", own=rank) as stored:
            assert stored.read("torch").tolist() == [expected]


def test_a_folder_without_them_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no model: it is not one of a training"):
        Tensors(tmp_path, "model")


def divided_spec(folder: Path, **changes: Any) -> FitSpec:
    machine = Machine(precision="float32", devices=2, strategy="fsdp")
    return stream_spec(folder, **{"machine": machine, "steps": 150, "checkpoint_every": 10, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> FitSpec:
    return train(divided_spec(tmp_path_factory.mktemp("undisturbed"), keep_trunk=True), 2)


def stopped(spec: FitSpec) -> FitSpec:
    """Two processes, of which one is asked to stop as soon as there is a checkpoint."""
    group = started(spec, 2)
    while not list((spec.work / "checkpoints").glob("step-*")) and group[0].is_alive():
        pass
    group[1].terminate()
    return ended(spec, group, code=75)


def test_a_divided_checkpoint_holds_each_weight_once_and_its_resume_changes_no_bit(
    tmp_path: Path, undisturbed: FitSpec
) -> None:
    spec = stopped(divided_spec(tmp_path, keep_trunk=True))
    checkpoint, _ = newest_checkpoint(spec.work / "checkpoints", at_most=spec.steps)
    assert checkpoint is not None and checkpoint.step < spec.steps
    names = {path.name for path in checkpoint.path.glob("*.safetensors")}
    assert names == {f"{k}-0000{r}-of-00002.safetensors" for k in ("model", "optimizer", "random") for r in range(2)}
    halves = [load_file(checkpoint.path / f"model-0000{rank}-of-00002.safetensors") for rank in range(2)]
    assert [len(half["embedding.weight"]) for half in halves] == [32, 32]
    train(spec, 2)
    assert tree(spec.out) == tree(undisturbed.out)


def test_what_two_processes_divided_one_goes_on_from_and_the_other_way_round(
    tmp_path: Path, undisturbed: FitSpec
) -> None:
    """The same training but for rounding."""
    one = divided_spec(tmp_path / "one")
    stopped(one)
    train(one, 1)
    two = divided_spec(tmp_path / "two", checkpoint_every=60)
    [alone] = started(two, 1)
    while not list((two.work / "checkpoints").glob("step-*")) and alone.is_alive():
        pass
    alone.kill()
    alone.join()
    train(two, 2)
    expected = pl.read_parquet(undisturbed.out / "losses.parquet")["loss"].to_numpy()
    for spec in (one, two):
        assert pl.read_parquet(spec.out / "losses.parquet")["loss"].to_numpy() == pytest.approx(expected, rel=5e-3)
