"""Which servers a process uses, and as whom: those that the environment names, those of `up`, or one of its own.

The home's secret goes to servers of this home only. A server that PREFECT_API_URL or MLFLOW_TRACKING_URI names gets
what the environment has for it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.servers.access import Access
from flows.servers.prefect import PrivateServer
from flows.servers.services import running


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """The API URL of a Prefect server for the block: the environment's, that of `up`, or a private one.

    An explicit PREFECT_API_URL comes first, since a run must report to the server that started it.
    """
    if url := existing_api_url(home):
        yield url
        return
    with PrivateServer.start(home) as server:
        yield server.wait()


def existing_api_url(home: Path) -> str | None:
    """The API URL of a server that is already there, by PREFECT_API_URL or by `up`; None calls for a private one."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    services = running(home)
    return services.api_url if services else None


def tracking_uri(home: Path) -> str:
    """Where MLflow's records go: MLFLOW_TRACKING_URI, the server of `up`, or its database without the server."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    services = running(home)
    return (services and services.mlflow_url) or f"sqlite:///{home.resolve() / 'mlflow.db'}"


def auth_string(home: Path, api_url: str) -> str | None:
    """What to prove oneself with at a Prefect server: the home's if it is ours, else what the environment has."""
    if is_ours(home, api_url):
        return Access.of(home).auth_string
    return os.environ.get("PREFECT_API_AUTH_STRING")


def is_ours(home: Path, url: str) -> bool:
    """Whether this is the address of a server of `up`."""
    services = running(home)
    return services is not None and url in (services.api_url, services.mlflow_url)


def connect_tracking(home: Path) -> str:
    """`tracking_uri`, with this process's MLflow client let in if that is a server of ours."""
    uri = tracking_uri(home)
    os.environ.update(Access.of(home).mlflow_variables(ours=is_ours(home, uri)))
    return uri
