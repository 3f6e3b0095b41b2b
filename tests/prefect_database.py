"""A home where Prefect finds its database: creating one costs a server 5 s, copying it nothing."""

import sqlite3
from contextlib import closing
from pathlib import Path


def with_database(home: Path, database: Path) -> Path:
    """The home, made if need be, with a copy of the database where Prefect looks for it."""
    (home / "prefect").mkdir(parents=True, mode=0o700)
    copy_database(database, home / "prefect" / "prefect.db")
    (home / "prefect" / "prefect.db").chmod(0o600)
    return home


def copy_database(made: Path, copy: Path) -> None:
    """Copy an SQLite file that a server may have open."""
    with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
