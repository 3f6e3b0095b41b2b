"""What a person sees of a night at work, on a terminal and on Prefect's page of the run."""

import io
import logging

import pytest
from rich.console import Console

from flows.terminal import view
from flows.terminal.view import LogView, TerminalView, Views


def test_the_terminal_and_prefects_page_say_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(view, "PLAIN_INTERVAL_S", -1.0)
    written = io.StringIO()
    with TerminalView(Console(file=written)) as terminal, caplog.at_level(logging.INFO, "test_view"):
        both = Views(terminal, LogView(logging.getLogger("test_view")))
        both.began("pretrain", "run")
        both.said("pretrain", "batch 8: as asked")
        both.progressed("pretrain", 20, 1000, "steps, loss 3.250, 14,500 tokens/s, MFU 41%, 12 min left")
    assert caplog.messages == [
        "pretrain: run",
        "pretrain: batch 8: as asked",
        "pretrain: 20 of 1,000 steps, loss 3.250, 14,500 tokens/s, MFU 41%, 12 min left",
    ]
    assert "20 of 1,000 steps, loss 3.250, 14,500 tokens/s, MFU 41%, 12 min left" in written.getvalue()


def test_a_total_that_nobody_knows_is_not_said() -> None:
    assert view.amount_of(1234, 0, "documents") == "1,234 documents"
