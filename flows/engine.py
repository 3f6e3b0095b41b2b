"""The engine: which of Prefect's task runners does the batches of the data stages. It changes no byte of any output.

Threads are the default on one machine: the kernels are Rust or compiled and release the interpreter's lock, and a Dask
or Ray worker takes some 10 s to start and 300 MB, since each imports everything. All workers must see the home folder
under the same path.

A cluster of this machine is for one night and for nobody else. Whoever reaches its ports could run code as its owner,
so Ray's ask for a token that only this process and its children know, and Dask's speak TLS with certificates of the
night. Its workers run under the interpreter that runs this, and install nothing.
"""

import os
import secrets
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from models.settings import Settings
from tasks.core.errors import UserError

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner


class Engine(Settings):
    """Who does the work of the data stages. `engine: dask` alone is short for `engine: {kind: dask}`."""

    kind: Literal["local", "dask", "ray"] = "local"
    """Threads of this process, a Dask cluster or a Ray cluster."""
    address: str | None = Field(default=None, min_length=1, max_length=1000)
    """The address of a running cluster (tcp://scheduler:8786, ray://head:10001); None: one of this machine, for the
    night."""
    workers: int | None = Field(default=None, ge=1, le=4096)
    """Threads, or processes of a cluster of this machine; None: one for each core. Not for a running cluster."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": block.get("description", ""), "anyOf": [block, block["properties"]["kind"]]}

    @model_validator(mode="before")
    @classmethod
    def _from_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _address_has_a_cluster(self) -> "Engine":
        if self.kind == "local" and self.address:
            raise ValueError("the local engine has no address; set `kind` to dask or ray")
        if self.address and self.workers:
            raise ValueError("a running cluster has its own number of workers; leave out `workers`")
        return self

    def require_package(self) -> None:
        """Raise UserError if the package for this engine is not installed."""
        if self.kind != "local" and find_spec(f"prefect_{self.kind}") is None:
            raise UserError(
                f"the recipe's engine is {self.kind}, and prefect-{self.kind} is not installed; "
                f"install it with `uv sync --extra {self.kind}`"
            )

    def task_runner(self) -> "TaskRunner[Any]":
        """Prefect's task runner for this engine.

        Raises:
            UserError: the package for it is not installed.
        """
        self.require_package()
        workers = self.workers or os.cpu_count() or 1
        if self.kind == "local":
            from prefect.task_runners import ThreadPoolTaskRunner

            return ThreadPoolTaskRunner(max_workers=workers)
        if self.address:
            return self._of_a_running_cluster()
        return _dask_here(workers) if self.kind == "dask" else _ray_here(workers)

    def _of_a_running_cluster(self) -> "TaskRunner[Any]":
        if self.kind == "dask":
            from prefect_dask.task_runners import DaskTaskRunner

            return DaskTaskRunner(address=self.address)
        os.environ.update(_RAY_AS_IT_IS)
        from prefect_ray.task_runners import RayTaskRunner

        return RayTaskRunner(address=self.address)


_RAY_AS_IT_IS = {
    # Under `uv run` Ray would pack the project and build a second environment (7 GB) for every session.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def _dask_here(workers: int) -> "TaskRunner[Any]":
    import dask
    from prefect_dask.task_runners import DaskTaskRunner

    # The pages of scheduler and workers know no TLS: they serve nothing.
    dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []})
    cluster = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "security": True}
    return DaskTaskRunner(cluster_kwargs=cluster)


def _ray_here(workers: int) -> "TaskRunner[Any]":
    os.environ.update(_RAY_AS_IT_IS)  # read when Ray is imported
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once a process
    # Ports of metrics ask for no token; they cannot be closed but by a number that no port has.
    os.environ.update({"AUTOSCALER_METRIC_PORT": "-1", "DASHBOARD_METRIC_PORT": "-1"})
    from prefect_ray.task_runners import RayTaskRunner

    quiet = {"include_dashboard": False, "log_to_driver": False}
    return RayTaskRunner(
        init_kwargs={"num_cpus": workers, **quiet, "_system_config": {"enable_metrics_collection": False}}
    )
