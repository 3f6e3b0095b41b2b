"""What the sources of a recipe have, told apart from what earlier nights have read: sets of stamps, no reading.

A night reads the inventory that is left when the earlier nights' are taken away, so it costs what is new. A file is
the same if its name, size and mark (modification time, or etag of a remote file) are; one that changed is read again
whole under a new version, and deduplication drops what it repeats. That costs a night one changed file at most twice,
where finding the changed rows would need every old row's hash at hand. Removed files are no news.
"""

from collections.abc import Sequence

from models.settings import NotInKey, Settings

NAMES_SHOWN = 3


class Unit(Settings):
    """What is read whole or not at all: a file, or a distribution of the installed Python."""

    name: str
    """How the ids of its documents begin; unique in its source."""
    path: NotInKey[str] = ""
    """Absolute path or URL; empty for a distribution. The same file elsewhere is the same file; but whoever keeps what
    was read must find it again."""
    size: int = 0
    """Bytes."""
    mark: str
    """Changes when the content does: modification time in ns, etag, or a distribution's version."""
    version: int = 1
    """1 when it is first read, one more each time that it changed since."""

    @property
    def label(self) -> str:
        """The name with the version, from the second on: `articles/a.jsonl@2`."""
        return self.name if self.version == 1 else f"{self.name}@{self.version}"

    @property
    def is_remote(self) -> bool:
        """Whether it is behind a URL."""
        return "://" in self.path


class Stock(Settings):
    """What one source has to offer."""

    source: str
    """The source's name in the recipe."""
    units: tuple[Unit, ...] = ()
    """In the order in which they are read."""
    night: int = 1
    """How many nights have read from this source, with this one: what keeps given ids apart from earlier ones."""


class Inventory(Settings):
    """What there is to read; part of ingest's key."""

    stocks: tuple[Stock, ...]
    """In the order of the recipe's sources."""

    def chosen_names(self) -> set[str]:
        """Everything from a dot on in its files' names: the entries of the table of formats that it needs are among
        them."""
        names = (unit.path.rpartition("/")[2].lower() for stock in self.stocks for unit in stock.units)
        return {name[at:] for name in set(names) for at, letter in enumerate(name) if letter == "."}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is new."""
        return not any(stock.units for stock in self.stocks)

    def summary(self) -> str:
        """What is new and what has changed, in one line with the first names."""
        units = [unit for stock in self.stocks for unit in stock.units]
        kinds = {"new": [unit for unit in units if unit.version == 1], "changed": [u for u in units if u.version > 1]}
        return ", ".join(f"{len(some):,} {kind} ({_first_names(some)})" for kind, some in kinds.items() if some)

    def minus(self, earlier: Sequence["Inventory"]) -> "Inventory":
        """What is new or changed since the earlier nights; sources without news are left out.

        Args:
            earlier: what each night read (that is, what this method gave then), the oldest first.
        """
        read: dict[tuple[str, str], Unit] = {}
        nights: dict[str, int] = {}
        for stock in (stock for inventory in earlier for stock in inventory.stocks):
            nights[stock.source] = stock.night
            read.update({(stock.source, unit.name): unit for unit in stock.units})
        stocks = []
        for stock in self.stocks:
            units = []
            for unit in stock.units:
                last = read.get((stock.source, unit.name))
                if last is None:
                    units.append(unit)
                elif (last.size, last.mark) != (unit.size, unit.mark):
                    units.append(unit.model_copy(update={"version": last.version + 1}))
            if units:
                stocks.append(Stock(source=stock.source, units=tuple(units), night=nights.get(stock.source, 0) + 1))
        return Inventory(stocks=tuple(stocks))


def _first_names(units: Sequence[Unit]) -> str:
    names = ", ".join(unit.name for unit in units[:NAMES_SHOWN])
    return names if len(units) <= NAMES_SHOWN else f"{names} and {len(units) - NAMES_SHOWN:,} more"
