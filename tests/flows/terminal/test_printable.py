"""Names and errors from outside are shown, never obeyed: neither by Rich as markup nor by a terminal as a command."""

import io
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.nights.ledger import Ledger, Night, StageEntry
from flows.plan import Step
from flows.servers.services import Service, Services
from flows.terminal.printable import HIDDEN, LONGEST, printable, sentence, shown
from flows.terminal.summary import plan_table, services_table, status_table
from flows.terminal.view import LogView, TerminalView
from tasks.core.journal import Journal
from tasks.core.run import StageOutcome
from tests.tiny import Commands

HOSTILE = (
    *("[/]", "[bold] x", "[link=x]x[/link]", ":skull:", "\\[", "[", "{", "%s %d"),
    *("\x1b[2J\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "a\rb", "a\nforged: line", "\x00", "\x08\x08\x08", "\x7f"),
    *("\u202egpj.exe", "\u2066a\u2069", "\u200b", "\ufeff", "\u2028", "\udcff", "\U000e0041"),
)


def drawn(renderable: Any) -> str:
    """What a terminal would get, wide enough that nothing is broken."""
    out = io.StringIO()
    Console(file=out, width=400, force_terminal=True, color_system=None).print(renderable, highlight=False)
    return out.getvalue()


def assert_is_shown(hostile: str, text: str) -> None:
    """It stands there as written, or with its invisible characters spelt out; and nothing invisible is left."""
    assert printable(hostile) in text
    assert not {mark for mark in text.replace("\n", "") if unicodedata.category(mark) in HIDDEN}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_every_table_shows_a_hostile_name(hostile: str, tmp_path: Path) -> None:
    entry = StageEntry(node=hostile, stage="s", action="ran", digest="d", seconds=1.0)
    night = Night(
        id=hostile, recipe=hostile, recipe_path=hostile, state="failed", started="", error=hostile, stages=[entry]
    )
    step = Step(hostile, hostile, "run", [hostile, hostile], [hostile])
    services = Services(home=tmp_path, parts=(Service(name="worker", pid=1, born="", url="", log=f"/{hostile}"),))
    tables = {
        "plan": plan_table([step]),
        "status": status_table(tmp_path, services, [night]),
        "services": services_table(services),
    }
    for table in tables.values():
        assert_is_shown(hostile, drawn(table))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_running_night_is_shown_with_a_hostile_stage(hostile: str, tmp_path: Path) -> None:
    night = Night(id="n", recipe="r", recipe_path="p", state="running", started="")
    Journal(Ledger(tmp_path).journal_path(night)).append("start", hostile.encode("utf-8", "replace").decode(), name="x")
    assert_is_shown(hostile.encode("utf-8", "replace").decode(), drawn(status_table(tmp_path, None, [night])))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_both_views_show_a_hostile_message(hostile: str, caplog: pytest.LogCaptureFixture) -> None:
    out = io.StringIO()
    console = Console(file=out, width=400, force_terminal=False)
    with TerminalView(console) as terminal, caplog.at_level(logging.INFO, "hostile"):
        for view in (terminal, LogView(logging.getLogger("hostile"))):
            view.began(hostile, "run")
            view.said(hostile, hostile)
            view.progressed(hostile, 1, 2, hostile)
            view.ended(StageOutcome(hostile, hostile, "ran", hostile, 1.0))
    assert_is_shown(hostile, out.getvalue())
    for message in caplog.messages:
        assert_is_shown(hostile, message)
        assert "\n" not in message


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_live_line_shows_a_hostile_name(hostile: str) -> None:
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    with TerminalView(console) as terminal:
        terminal.began(hostile, "run")
        terminal.progressed(hostile, 1, 2, hostile)
        line = drawn(terminal._bars.get_renderable())
    assert printable(hostile) in line


def test_a_sentence_is_one_line_that_can_be_read_at_a_glance() -> None:
    assert sentence("one\n  two\tthree") == "one two three"
    long = sentence(f"there is no file /{'x' * 5000}; correct it")
    assert long.startswith("there is no file /xxx") and long.endswith("xxx; correct it") and len(long) < 120
    assert len(sentence("many words " * 100)) == LONGEST
    assert sentence("\x1b[2J") == "\\x1b[2J"


def test_what_can_be_seen_stays_as_it_is() -> None:
    text = "Größe 12 µm, 東京, עברית, 😀, é"
    assert printable(text) == text
    assert shown("[bold]").plain == "[bold]"


def test_every_verb_shows_a_hostile_recipe(tiny: Commands) -> None:
    name = "markup [bold] \x1b[2J \u202e x.yaml"
    recipe = tiny.recipe.with_name(name)
    source = "{kind: files, name: a, paths: ['/no/such/[/]file.jsonl']}"
    recipe.write_text(f"name: markup\ningest:\n  sources: [{source}]\n")
    nights = tiny.home / "nights"
    nights.mkdir(parents=True)
    night = Night(id="n", recipe=name, recipe_path=str(recipe), state="failed", started="", error=f"[/] {name}")
    (nights / "n.json").write_text(json.dumps(night.model_dump(mode="json")))
    done = tiny("status", COLUMNS="300")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(printable(name)) == 2
    for arguments in (("run", str(recipe)), ("plan", str(recipe)), ("rerun",)):
        done = tiny(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "Source 'a': no file matches /no/such/[/]file.jsonl; correct its `paths`.\n"
    for verb in ("run", "plan", "deploy"):
        done = tiny(verb, str(recipe.with_name(f"no {name}")))
        assert done.returncode == 2
        assert f"no {printable(name)}; give the path of a YAML file" in done.stderr
        assert len(done.stderr.splitlines()) == 1
