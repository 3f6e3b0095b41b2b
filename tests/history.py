"""What MLflow holds of a night, and what its journal says: the two must be equal."""

from collections import Counter
from pathlib import Path
from typing import Any

from tasks.core.journal import read_journal


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri, registry_uri=uri)


def runs(uri: str, experiment: str = "recipe") -> dict[str, Any]:
    """The runs of the only night in an experiment, by node."""
    mlflow = client(uri)
    found = mlflow.search_runs([mlflow.get_experiment_by_name(experiment).experiment_id])
    assert len({run.data.tags["nightschool.node"] for run in found}) == len(found)
    return {run.data.tags["nightschool.node"]: run for run in found}


def history(uri: str, experiment: str = "recipe") -> Counter[tuple[str, str, int, int, float]]:
    """Every metric point in MLflow: node, name, step, time, value."""
    mlflow = client(uri)
    return Counter(
        (node, key, point.step, point.timestamp, point.value)
        for node, run in runs(uri, experiment).items()
        for key in run.data.metrics
        for point in mlflow.get_metric_history(run.info.run_id, key)
    )


def recorded(path: Path) -> Counter[tuple[str, str, int, int, float]]:
    """Every metric point in the journal."""
    return Counter(
        (record.node, key, record.payload["step"], record.payload["at"], value)
        for record in read_journal(path)
        if record.kind == "metrics"
        for key, value in record.payload["values"].items()
    )
