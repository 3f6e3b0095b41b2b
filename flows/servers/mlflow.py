"""The MLflow server as a process of ours.

Why not `mlflow server`: its port is chosen before it is bound, its parent leaves an orphan behind that keeps the port,
and it lets everybody in. This is the same application under one uvicorn process, given what that command would be told
by its flags.
"""

import os
import subprocess
import sys
import uuid
from pathlib import Path

from flows.servers.access import Access
from flows.servers.process import Port, serve
from flows.servers.process import launch as launch_server
from tasks.tracking.projection import artifact_root, create_database

LANDING = "/#/experiments?workflowType=machine_learning"
"""The page of the experiments; without the query, MLflow 3 opens its GenAI pages."""


def launch(home: Path, port: Port, log: Path) -> "subprocess.Popen[bytes]":
    """Start an MLflow server over the database and the artifacts of this home."""
    home = home.resolve()
    database = home / "mlflow.db"
    create_database(f"sqlite:///{database}")  # the server's own way of creating it leaves a broken file when killed
    variables = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # The door does what it does, and MLflow's would refuse the name of our pages.
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    }
    return launch_server(__name__, home, port, log, variables)


def run(home: Path, descriptors: str) -> None:
    """Be the server, on inherited listening sockets, until SIGTERM."""
    from mlflow.environment_variables import _MLFLOW_IN_JOB_EXECUTOR, _MLFLOW_SERVER_BOOT_ID, _MLFLOW_SGI_NAME
    from mlflow.server import constants

    uri, artifacts = f"sqlite:///{home / 'mlflow.db'}", "mlflow-artifacts:/"
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: uri,
        constants.ARTIFACT_ROOT_ENV_VAR: artifacts,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: str(artifact_root(home / "mlflow.db")),
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        _MLFLOW_SERVER_BOOT_ID.name: uuid.uuid4().hex,
        _MLFLOW_IN_JOB_EXECUTOR.name: "false",
        _MLFLOW_SGI_NAME.name: "uvicorn",
    }
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(uri, uri, artifacts)  # a broken database ends the start, not the first request
    serve(app, Access.of(home), descriptors, LANDING)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
