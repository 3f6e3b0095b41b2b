"""MLflow killed in mid-training and started again: training goes on, and MLflow ends up equal to the journal."""

import time
from pathlib import Path

from flows.servers.access import Access
from tests.history import history, recorded
from tests.mlflow_server import find_free_port, mlflow_server, wait_until
from tests.tiny import Commands


def test_training_goes_on_without_mlflow_whose_history_then_equals_the_journal(ready: Commands, tmp_path: Path) -> None:
    ready.change("pretrain.tokens", 400 * 8 * 64)
    ready.change("finetune", None)  # what it trains is sent as what pre-training does
    port = find_free_port()
    uri = f"http://127.0.0.1:{port}"
    (tmp_path / "server").mkdir()
    served = {"MLFLOW_TRACKING_URI": uri, **Access.of(tmp_path / "server").mlflow_variables()}
    with mlflow_server(tmp_path / "server", port):
        process = ready.start("run", str(ready.recipe), **served)
        wait_until(lambda: steps(ready.home) >= 5, timeout_s=180)
    at_the_outage = steps(ready.home)
    wait_until(lambda: steps(ready.home) >= at_the_outage + 50, timeout_s=60)
    assert process.poll() is None
    time.sleep(2)  # the sender must have met the closed door
    with mlflow_server(tmp_path / "server", port):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert ready("sync", **served).returncode == 0
        (journal,) = (ready.home / "journals").glob("*.jsonl")
        assert history(uri, "tiny") == recorded(journal)
    assert sum(node == "pretrain" and name == "loss" for node, name, *_ in recorded(journal)) == 400


def steps(home: Path) -> int:
    """Training steps in the only journal so far."""
    found = list((home / "journals").glob("*.jsonl"))
    told = recorded(found[0]) if found else {}
    return max((step for node, name, step, *_ in told if (node, name) == ("pretrain", "loss")), default=0)
