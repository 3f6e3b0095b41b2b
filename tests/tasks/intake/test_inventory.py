"""The inventory of a night: what is new or changed, under which version, whatever the order of events was."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.intake.inventory import Inventory, Stock, Unit


def inventory(source: str = "notes", **marks: str) -> Inventory:
    units = tuple(Unit(name=f"{source}/{name}", path=f"/d/{name}", size=1, mark=mark) for name, mark in marks.items())
    return Inventory(stocks=(Stock(source=source, units=units),))


def labels(found: Inventory) -> list[str]:
    return [unit.label for stock in found.stocks for unit in stock.units]


def test_the_first_night_reads_everything_and_the_next_nothing() -> None:
    now = inventory(a="1", b="1")
    assert now.minus([]) == now
    assert now.minus([now]).is_empty
    assert now.minus([now]).stocks == ()


def test_what_is_new_or_changed_is_read_and_what_is_gone_is_no_news() -> None:
    first = inventory(a="1", b="1", c="1").minus([])
    second = inventory(a="1", b="2", d="1").minus([first])
    assert labels(second) == ["notes/b@2", "notes/d"]
    third = inventory(a="1", b="1", c="1", d="1").minus([first, second])
    assert labels(third) == ["notes/b@3"]  # back to what it was is a change, too


def test_a_size_that_changed_is_a_change_and_a_folder_that_moved_is_none() -> None:
    before = inventory(a="1")
    stock = before.stocks[0]
    for update, news in (({"size": 2}, ["notes/a@2"]), ({"path": "/elsewhere/a"}, [])):
        now = Inventory(stocks=(stock.model_copy(update={"units": (stock.units[0].model_copy(update=update),)}),))
        assert labels(now.minus([before])) == news


def test_a_source_counts_the_nights_on_which_it_was_read() -> None:
    first = Inventory(stocks=(*inventory(a="1").stocks, *inventory("pages", a="1").stocks)).minus([])
    second = inventory(a="1", b="1").minus([first])
    third = Inventory(stocks=(*inventory(a="1").stocks, *inventory("pages", b="1").stocks)).minus([first, second])
    assert [(stock.source, stock.night) for stock in second.stocks] == [("notes", 2)]
    assert [(stock.source, stock.night) for stock in third.stocks] == [("pages", 2)]


def test_it_survives_json() -> None:
    first = inventory(a="1", b="1").minus([])
    second = inventory(a="2").minus([first])
    assert Inventory.model_validate_json(second.model_dump_json()) == second


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12"), max_size=4), max_size=6))
def test_no_two_nights_ever_read_under_one_label_and_nothing_that_changed_is_missed(
    nights: list[dict[str, str]],
) -> None:
    read: list[Inventory] = []
    last: dict[str, str] = {}
    for marks in nights:
        news = inventory(**marks).minus(read)
        changed = {f"notes/{name}" for name, mark in marks.items() if last.get(name) != mark}
        assert {unit.name for stock in news.stocks for unit in stock.units} == changed
        last.update(marks)
        if not news.is_empty:
            read.append(news)
    everything = [label for found in read for label in labels(found)]
    assert len(set(everything)) == len(everything)
    assert [found.stocks[0].night for found in read] == list(range(1, len(read) + 1))
