"""Who may use the servers of a home: its secret, the name of its pages, links that work once and what they open.

Loopback is no protection: every page in the owner's browser and every user of the machine can connect to it. So a
program proves itself by the home's secret, which lies in a file that only the owner reads, and a browser by a cookie
that it got for a link of `up`. Browsers send a cookie to all ports of a name, and on 127.0.0.1 some of these ports
are other people's: the pages have a name of their own, `<16 hex digits>.localhost`, which browsers resolve to loopback
by themselves, and which nobody else knows.
"""

import base64
import hashlib
import json
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from models.files import create_file, write_file
from tasks.core.errors import UserError
from tasks.core.versions import open_store

USER = "nightschool"
LINK_AGE_S = 600.0
"""How long a link works that nobody has opened."""


def make_home(home: Path) -> None:
    """Create the home folder if need be, close it and all that this process will write to everybody else, and make it
    one of today's version.

    Raises:
        UserError: it cannot be written, or a newer Nightschool has.
    """
    os.umask(0o077)
    try:
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
        probe = home / ".writable"
        probe.write_bytes(b"nightschool")
        probe.unlink(missing_ok=True)  # another process may be probing too
    except OSError as error:
        raise UserError(
            f"the home folder {home} cannot be written ({error.strerror}); set NIGHTSCHOOL_HOME to one that can"
        ) from error
    open_store(home)


@dataclass(frozen=True)
class Access:
    """What opens the servers of one home."""

    home: Path
    secret: str
    page_host: str
    """The name under which browsers know the pages; a cookie counts under no other."""

    @classmethod
    def of(cls, home: Path) -> Self:
        """The access to a home's servers, made when it is first asked for."""
        home = home.resolve()
        file = _folder(home) / "secret.json"
        if not file.exists():
            made = {"secret": secrets.token_urlsafe(32), "page_host": f"{secrets.token_hex(8)}.localhost"}
            create_file(file, json.dumps(made).encode())
        return cls(home, **json.loads(file.read_bytes()))

    @property
    def auth_string(self) -> str:
        """User and secret, as PREFECT_API_AUTH_STRING has them."""
        return f"{USER}:{self.secret}"

    @property
    def authorization(self) -> str:
        """The header that a program sends."""
        return f"Basic {base64.b64encode(self.auth_string.encode()).decode()}"

    def prefect_variables(self, *, ours: bool = True) -> dict[str, str]:
        """What a process needs to talk to our Prefect server, or what must not reach somebody else's."""
        return _lent({"PREFECT_API_AUTH_STRING": self.auth_string}, ours)

    def mlflow_variables(self, *, ours: bool = True) -> dict[str, str]:
        """What a process needs to talk to our MLflow server, or what must not reach somebody else's."""
        return _lent({"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": self.secret}, ours)

    def make_link(self, port: int) -> str:
        """An address that opens the pages to the first browser that visits it, within ten minutes."""
        links = _folder(self.home, "links")
        for link in links.iterdir():
            with suppress(FileNotFoundError):
                if _age(link) > LINK_AGE_S:
                    link.unlink()
        return f"http://{self.page_host}:{port}/enter?once={_issue(links)}"

    def redeem(self, link: str) -> str | None:
        """A new session's cookie for a link's token; None if the link is used, too old, or was never made."""
        file = _folder(self.home, "links") / _hashed(link)
        try:
            age = _age(file)
            file.unlink()  # of two visitors at once, one fails here
        except FileNotFoundError:
            return None
        return _issue(_folder(self.home, "sessions")) if age <= LINK_AGE_S else None

    def is_session(self, cookie: str) -> bool:
        """Whether this cookie was given for a link and has not been revoked."""
        return (self.home / "access" / "sessions" / _hashed(cookie)).exists()

    def revoke(self) -> None:
        """End all sessions and links: whoever listens on our ports next must get nothing from an open page."""
        for name in ("links", "sessions"):
            shutil.rmtree(self.home / "access" / name, ignore_errors=True)
        self.clients_file.unlink(missing_ok=True)

    @property
    def clients_file(self) -> Path:
        """A shell script that lets `prefect` and `mlflow` commands in."""
        return self.home / "clients.sh"

    def write_clients_file(self, prefect_url: str, mlflow_url: str) -> None:
        """Write what a shell needs for the servers at these addresses."""
        variables = {
            "PREFECT_API_URL": f"{prefect_url}/api",
            "PREFECT_UI_URL": self.page(prefect_url),
            "MLFLOW_TRACKING_URI": mlflow_url,
            **self.prefect_variables(),
            **self.mlflow_variables(),
        }
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        # A proxy would be sent the secret.
        lines += [f'export {name}="127.0.0.1,localhost${{{name}:+,${name}}}"' for name in ("NO_PROXY", "no_proxy")]
        write_file(self.clients_file, "\n".join([*lines, ""]).encode())

    def page(self, url: str) -> str:
        """The address for a browser of a server of ours, whose address for programs is `http://127.0.0.1:port`."""
        return f"http://{self.page_host}:{url.rpartition(':')[2]}"


def _folder(home: Path, name: str = "") -> Path:
    folder = home / "access" / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _issue(folder: Path) -> str:
    """A new token, of which only the hash is kept, as the name of an empty file."""
    token = secrets.token_urlsafe(32)
    (folder / _hashed(token)).touch(0o600)
    return token


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _age(file: Path) -> float:
    return time.time() - file.stat().st_mtime


def _lent(variables: Mapping[str, str], ours: bool) -> dict[str, str]:
    """These variables for a server of ours. For another they are blanked where this environment has all of them, which
    it does in a shell that has read clients.sh; somebody else's password for the same user stays."""
    if ours:
        return dict(variables)
    has_ours = all(os.environ.get(name) == value for name, value in variables.items())
    return dict.fromkeys(variables, "") if has_ours else {}
