"""What all tests of the training need: it leaves its settings of torch to no other test."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """`fit` sets them for its process."""
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(exact)
