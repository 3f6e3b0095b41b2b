"""What MLflow is told about a run: the one file that calls MLflow's client.

Each record of a journal becomes one or a few calls that may be repeated without harm, because sending is at least
once: metrics carry the journal's time and step (MLflow drops equal points), runs are found by their tags before
they are created, models by the digest of their files. Only `MlflowClient` is used, bound to one URI: the fluent API
keeps a current run and a tracking URI for the whole process, which a library's thread must not touch.
"""

import contextlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.core.journal import Record
from tasks.tracking.mlmodel import describe_model, tokenizer_files

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

RUN_TAG = "nightschool.run"
NODE_TAG = "nightschool.node"
DIGEST_TAG = "nightschool.digest"

METRICS_A_CALL, PARAMS_A_CALL, TAGS_A_CALL = 800, 100, 100
"""MLflow refuses more than 1000 metrics, 100 params, 100 tags and 1000 things in sum."""
PARAM_LENGTH, TAG_LENGTH, INPUT_TAG_LENGTH, DATASET_DIGEST_LENGTH = 6000, 8000, 500, 36

EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Without it the UI opens the experiment in its GenAI view."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # By default a call to a dead server goes on for four minutes; our thread retries by itself and must end in seconds.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}

REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND"}
"""MLflow's error codes that say that asking again will not help."""


class Refusal(Exception):
    """A record that will never be accepted, such as an artifact whose file is gone."""


class Projection:
    """The runs of one journal in one MLflow.

    Connecting finds or creates the experiment; any method may raise whatever MLflow, requests or SQLAlchemy raise.
    """

    def __init__(self, run: str, experiment: str, tracking_uri: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # someone may have imported MLflow before us, with its chatter on
            logging.getLogger(name).setLevel(logging.WARNING)
        # It prints the traceback of every database error that it also raises, and the sender says those in a line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        create_database(tracking_uri)
        self._client = MlflowClient(tracking_uri, registry_uri=tracking_uri)
        self._tracking_uri = tracking_uri
        self._database = sqlite_file(tracking_uri)
        self._run = run
        self._experiment = self._find_experiment(experiment)
        self._runs = self._find_runs()
        self._unsure = False

    @property
    def is_new(self) -> bool:
        """Whether this MLflow has never heard of the journal's run."""
        return "" not in self._runs

    def answers(self) -> bool:
        """Whether MLflow serves a small request now: tells an outage from a record that it cannot digest."""
        try:
            self._client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def takes(self, node: str) -> bool:
        """Whether MLflow writes for this node at all: tells what is the matter with a record from a database that is
        read-only, a full disk, or a run or experiment that somebody has deleted and may restore."""
        said = "nightschool.sender", "was here"
        try:
            if node in self._runs:
                self._client.set_tag(self._runs[node], *said)
            else:
                self._client.set_experiment_tag(self._experiment, *said)
        except Exception:
            return False
        return True

    def apply(self, records: Sequence[Record]) -> None:
        """Send records in order; figures, params and tags of a node that follow each other travel in one call."""
        waiting: dict[str, list[Record]] = {}
        for record in records:
            if record.kind in ("metrics", "params", "tags"):
                waiting.setdefault(record.node, []).append(record)
                continue
            self._send_figures(record.node, waiting.pop(record.node, []))
            match record.kind:
                case "start":
                    self._start(record)
                case "input":
                    self._log_input(record)
                case "artifact":
                    self._log_artifact(record)
                case "model":
                    self._register_model(record)
                case "end":
                    self._client.set_terminated(
                        self._id(record.node, record.time), record.payload["status"], record.time
                    )
                case _:
                    raise Refusal(f"nothing is known of records of kind {record.kind!r}")
        for node, figures in waiting.items():
            self._send_figures(node, figures)

    def _find_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self._database is not None:
            # A server knows where its artifacts belong; a bare database would put them below the current folder.
            location = (artifact_root(self._database) / re.sub(r"[^\w-]+", "-", name)).as_uri()
        return self._client.create_experiment(name, location, EXPERIMENT_KIND)

    def _find_runs(self) -> dict[str, str]:
        from mlflow.entities import ViewType

        runs, token = {}, None
        ours = f"tags.`{RUN_TAG}` = '{self._run}'"
        while True:
            page = self._client.search_runs([self._experiment], ours, ViewType.ALL, page_token=token)
            runs.update({run.data.tags[NODE_TAG]: run.info.run_id for run in page})
            if not (token := page.token):
                return runs

    def _id(self, node: str, time_ms: int, name: str = "", tags: dict[str, str] | None = None) -> str:
        """The MLflow run of a node, created if need be."""
        if node not in self._runs and self._unsure:
            self._runs, self._unsure = self._find_runs(), False
        if node not in self._runs:
            identity = {RUN_TAG: self._run, NODE_TAG: node}
            if node:
                identity["mlflow.parentRunId"] = self._id("", time_ms)
            self._unsure = True  # until the answer is here: it may be made and the answer be lost
            created = self._client.create_run(
                self._experiment, time_ms, _cut(tags or {}, TAG_LENGTH) | identity, name or node or self._run
            )
            self._unsure = False
            self._runs[node] = created.info.run_id
        return self._runs[node]

    def _start(self, record: Record) -> None:
        tags = record.payload.get("tags", {})
        known = record.node in self._runs
        run_id = self._id(record.node, record.time, record.payload["name"], tags)
        if known:
            self._client.update_run(run_id, status="RUNNING")
            self._send_figures(record.node, [Record(record.seq, record.time, "tags", record.node, {"values": tags})])

    def _send_figures(self, node: str, records: list[Record]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        if not records:
            return
        run_id = self._id(node, records[0].time)
        metrics: list[Metric] = []
        params: dict[str, Any] = {}
        tags: dict[str, Any] = {}
        for record in records:
            values = record.payload["values"]
            if record.kind == "params":
                params |= values
            elif record.kind == "tags":
                tags |= values
            else:
                at, step = record.payload["at"], record.payload["step"]
                metrics += [Metric(key, float(value), at, step) for key, value in values.items()]
        if params:
            # MLflow lets no param change. A resume under changed settings keeps the first value as param, the new
            # one as tag.
            params = _cut(params, PARAM_LENGTH)
            logged = self._client.get_run(run_id).data.params
            tags |= {
                f"nightschool.param.{key}": value for key, value in params.items() if logged.get(key, value) != value
            }
            params = {key: value for key, value in params.items() if key not in logged}
        param_list = [Param(key, value) for key, value in params.items()]
        tag_list = [RunTag(key, value) for key, value in _cut(tags, TAG_LENGTH).items()]
        while metrics or param_list or tag_list:
            self._client.log_batch(run_id, metrics[:METRICS_A_CALL], param_list[:PARAMS_A_CALL], tag_list[:TAGS_A_CALL])
            metrics, param_list, tag_list = metrics[METRICS_A_CALL:], param_list[PARAMS_A_CALL:], tag_list[TAGS_A_CALL:]

    def _log_input(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        payload = record.payload
        dataset = Dataset(
            payload["name"],
            payload["digest"][:DATASET_DIGEST_LENGTH],
            payload["source_type"],
            # What MLflow's own sources write: the page reads `uri` out of it, and a plain string breaks it.
            json.dumps({"uri": payload["source"]}),
        )
        tags = _cut({DIGEST_TAG: payload["digest"], **payload.get("tags", {})}, INPUT_TAG_LENGTH)
        self._client.log_inputs(
            self._id(record.node, record.time),
            [DatasetInput(dataset, [InputTag(key, value) for key, value in tags.items()])],
        )

    def _log_artifact(self, record: Record) -> None:
        path = Path(record.payload["path"])
        run_id, to = self._id(record.node, record.time), record.payload["to"]
        self._upload(self._client.get_run(run_id).info.artifact_uri, path, to)

    def _register_model(self, record: Record) -> None:
        """One LoggedModel and one version a digest and name: a night that reuses yesterday's model links to it."""
        from mlflow.entities import LoggedModelOutput

        name, digest = record.payload["name"], record.payload["digest"]
        tags = _cut({**record.payload.get("tags", {}), DIGEST_TAG: digest, RUN_TAG: self._run}, INPUT_TAG_LENGTH)
        run_id = self._id(record.node, record.time)
        model = self._find_model(name, digest)
        if model is None:
            model = self._client.create_logged_model(self._experiment, _model_title(name), run_id, tags)
        if str(model.status) != "READY":  # new, or its upload was killed
            self._upload_model(model, Path(record.payload["path"]), record.time)
            self._client.finalize_logged_model(model.model_id, "READY")
        outputs = self._client.get_run(run_id).outputs
        if outputs is None or model.model_id not in {output.model_id for output in outputs.model_outputs}:
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        if not self._client.search_registered_models(f"name = '{name}'", max_results=1):
            self._client.create_registered_model(name)
        if not self._client.search_model_versions(
            f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'", max_results=1
        ):
            # The source is the model's own folder: the server refuses any other, and a bare database would resolve
            # `models:/<id>` through the process-wide tracking URI.
            version = self._client.create_model_version(
                name, model.artifact_location, run_id, tags, await_creation_for=0, model_id=model.model_id
            )
            listed = json.dumps([{"name": name, "version": int(version.version)}])
            self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": listed})

    def _find_model(self, name: str, digest: str) -> "LoggedModel | None":
        found = self._client.search_logged_models(
            [self._experiment], f"tags.`{DIGEST_TAG}` = '{digest}' AND name = '{_model_title(name)}'", max_results=1
        )
        return found[0] if found else None

    def _upload_model(self, model: "LoggedModel", folder: Path, time_ms: int) -> None:
        to = model.artifact_location
        with tempfile.TemporaryDirectory() as described:
            if describe_model(folder, Path(described), model, time_ms):
                self._upload(to, folder, "model")
                for path in tokenizer_files(folder):
                    self._upload(to, path, "components/tokenizer")
                self._upload(to, Path(described))
            else:
                self._upload(to, folder)

    def _upload(self, uri: str, path: Path, to: str = "") -> None:
        """Copy a file, or what a folder holds, into the folder `to` of a run's or a model's artifacts."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if self._database is not None and uri.startswith("mlflow-artifacts:"):
            # A server made this experiment, and now the same database is used without it: `nightschool down`.
            uri = (artifact_root(self._database) / urlsplit(uri).path.lstrip("/")).as_uri()
        repository = get_artifact_repository(uri, self._tracking_uri, self._tracking_uri)
        if path.is_dir():
            repository.log_artifacts(str(path), to or None)
        elif path.is_file():
            repository.log_artifact(str(path), to or None)
        else:
            raise Refusal(f"{path} is gone")


def is_refusal(error: Exception) -> bool:
    """Whether sending the same record again is pointless."""
    return isinstance(error, Refusal) or getattr(error, "error_code", None) in REFUSALS


def sqlite_file(tracking_uri: str) -> Path | None:
    """The database file of a `sqlite:////absolute/path` URI, None for a server."""
    parts = urlsplit(tracking_uri)
    return Path(parts.path.removeprefix("/")) if parts.scheme == "sqlite" else None


def artifact_root(database: Path) -> Path:
    """Where the files of runs lie that an SQLite database describes; a server on it must be given the same folder."""
    return database.parent / "mlartifacts"


def create_database(tracking_uri: str) -> None:
    """Make MLflow's SQLite file if there is none, whole or not at all; nothing to do for a server.

    MLflow creates its tables in some sixty migrations (1 to 3 s) that SQLite does not undo: a kill among them would
    leave a file that no MLflow can open again. So they run on a file aside, which is linked into place when it is
    ready.
    """
    database = sqlite_file(tracking_uri)
    if database is None or database.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=database.parent) as folder:
        aside = Path(folder) / database.name
        store = SqlAlchemyStore(f"sqlite:///{aside}", artifact_root(database).as_uri())
        store.engine.dispose()
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(aside, database)


def _model_title(name: str) -> str:
    """A registered model's name as a LoggedModel may bear it."""
    return re.sub("[/:.%\"']", "-", name)


def _cut(values: dict[str, Any], length: int) -> dict[str, str]:
    """Values as text no longer than MLflow takes. It would cut them silently; we say so, and the journal keeps all."""
    return dict(_cut_each(values, length))


def _cut_each(values: dict[str, Any], length: int) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        text = str(value)
        note = f" ... [{len(text)} characters in all]"
        yield key, text if len(text) <= length else text[: length - len(note)] + note
