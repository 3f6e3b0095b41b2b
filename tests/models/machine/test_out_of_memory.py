"""What is said to a person whose training did not fit."""

from pathlib import Path

from models.machine.out_of_memory import how_to_fit
from models.spec import Machine
from tests.models.shards import stream_spec


def test_more_pieces_come_first_because_they_keep_the_result(tmp_path: Path) -> None:
    assert how_to_fit(stream_spec(tmp_path), 1, gpu=False) == (
        "set accumulate to 2 (now 1), which changes the result by rounding only, or lower context_length to 8 (now 16)"
    )


def test_a_batch_that_cannot_be_divided_further_is_to_be_lowered(tmp_path: Path) -> None:
    said = how_to_fit(stream_spec(tmp_path, accumulate=4), 2, gpu=False)
    assert said.startswith("lower batch (now 8), or lower context_length")


def test_several_gpus_can_divide_the_model(tmp_path: Path) -> None:
    assert "set strategy to fsdp" in how_to_fit(stream_spec(tmp_path), 2, gpu=True)
    sharded = stream_spec(tmp_path, machine=Machine(strategy="fsdp"))
    assert "fsdp" not in how_to_fit(sharded, 2, gpu=True)
    assert "fsdp" not in how_to_fit(stream_spec(tmp_path), 2, gpu=False)
