"""The sender: MLflow shows what the journal says, each record once, through kills, outages and repetitions."""

import json
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import StageError
from tasks.core.journal import Journal, read_journal
from tasks.tracking.sender import Sender, sync
from tests.history import client, history, recorded, runs
from tests.mlflow_server import find_free_port, mlflow_server, wait_until

ROOT = Path(__file__).parents[3]
SENDER = """
import sys, time
from pathlib import Path
from tasks.tracking.sender import Sender
Sender(Path(sys.argv[1]), sys.argv[2]).start()
print("started", flush=True)
time.sleep(600)
"""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journals" / "night-1.jsonl")) as journal:
        yield journal


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def begin(journal: Journal, *nodes: str) -> None:
    journal.append("start", name="Night 1", experiment="recipe", tags={"team": "a"})
    for node in nodes:
        journal.append("start", node, name=node, tags={})


def measure(journal: Journal, node: str, steps: range) -> None:
    for step in steps:
        values = {"loss": 1 / (step + 1), "grad_norm": 0.5}
        journal.append("metrics", node, values=values, step=step, at=1_700_000_000_000 + step)


def test_a_night_becomes_a_parent_run_with_its_stages_nested(journal: Journal, database: str) -> None:
    begin(journal, "ingest", "pretrain")
    journal.append("params", "pretrain", values={"steps": 100, "optimizer": "adamw"})
    journal.append("tags", "ingest", values={"action": "ran"})
    measure(journal, "pretrain", range(3))
    journal.append("end", "ingest", status="FINISHED")
    journal.append("end", "pretrain", status="FAILED")
    journal.append("end", status="KILLED")

    assert sync(journal.path, database) == 11

    found = runs(database)
    night = found[""]
    assert set(found) == {"", "ingest", "pretrain"}
    assert (night.info.run_name, night.data.tags["team"], night.info.status) == ("Night 1", "a", "KILLED")
    assert {found[node].data.tags["mlflow.parentRunId"] for node in ("ingest", "pretrain")} == {night.info.run_id}
    assert found["ingest"].data.tags["action"] == "ran"
    assert found["pretrain"].data.params == {"steps": "100", "optimizer": "adamw"}
    assert (found["ingest"].info.status, found["pretrain"].info.status) == ("FINISHED", "FAILED")
    records = list(read_journal(journal.path))
    assert (night.info.start_time, night.info.end_time) == (records[0].time, records[-1].time)
    assert history(database) == recorded(journal.path)


def test_the_experiment_opens_in_the_model_training_view(journal: Journal, database: str) -> None:
    begin(journal)
    sync(journal.path, database)
    experiment = client(database).get_experiment_by_name("recipe")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_sending_everything_again_changes_nothing(journal: Journal, database: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<h1>Night 1</h1>")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"weights")
    begin(journal, "export")
    journal.append("params", "export", values={"dtype": "float32"})
    journal.append(
        "input", "export", name="pretrain", digest="d" * 40, source="file:///m", source_type="local", tags={}
    )
    measure(journal, "export", range(5))
    journal.append("artifact", path=str(tmp_path / "report.html"), to="")
    journal.append("model", "export", name="recipe", path=str(tmp_path / "weights"), digest="e" * 40, tags={})
    journal.append("end", "export", status="FINISHED")
    total = sync(journal.path, database)
    before = {node: run.to_dictionary() for node, run in runs(database).items()}

    assert sync(journal.path, database) == 0
    for cursor in journal.path.parent.glob("*.cursor"):
        cursor.unlink()
    assert sync(journal.path, database) == total

    mlflow = client(database)
    assert {node: run.to_dictionary() for node, run in runs(database).items()} == before
    assert history(database) == recorded(journal.path)
    assert [version.version for version in mlflow.search_model_versions("name = 'recipe'")] == [1]
    assert len(mlflow.search_logged_models([mlflow.get_experiment_by_name("recipe").experiment_id])) == 1
    assert [file.path for file in mlflow.list_artifacts(runs(database)[""].info.run_id)] == ["report.html"]


def test_a_resumed_stage_goes_on_in_its_run(journal: Journal, database: str) -> None:
    begin(journal, "pretrain")
    measure(journal, "pretrain", range(3))
    journal.append("end", "pretrain", status="KILLED")
    sync(journal.path, database)
    killed = runs(database)["pretrain"]
    assert killed.info.status == "KILLED"

    journal.append("start", "pretrain", name="pretrain", tags={"resumed": "1"})
    journal.append("params", "pretrain", values={"workers": 2})
    sync(journal.path, database)
    assert runs(database)["pretrain"].info.status == "RUNNING"
    journal.append("params", "pretrain", values={"workers": 4})
    measure(journal, "pretrain", range(3, 6))
    journal.append("end", "pretrain", status="FINISHED")
    sync(journal.path, database)

    resumed = runs(database)["pretrain"]
    assert (resumed.info.run_id, resumed.info.status) == (killed.info.run_id, "FINISHED")
    assert resumed.data.params == {"workers": "2"}
    assert (resumed.data.tags["nightschool.param.workers"], resumed.data.tags["resumed"]) == ("4", "1")
    assert history(database) == recorded(journal.path)


def test_an_empty_mlflow_is_rebuilt_from_the_journal(journal: Journal, database: str, tmp_path: Path) -> None:
    begin(journal, "pretrain")
    measure(journal, "pretrain", range(4))
    sync(journal.path, database)
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"
    (tmp_path / "mlflow.db").rename(tmp_path / "lost.db")
    cursor = next(journal.path.parent.glob("*.cursor"))

    assert sync(journal.path, elsewhere) == 6  # a cursor of its own
    # The same URI with a fresh database behind it: MLflow's engines are cached by URI, hence another process.
    program = "import sys; from pathlib import Path; from tasks.tracking.sender import sync\n"
    program += "print(sync(Path(sys.argv[1]), sys.argv[2]))"
    command = [sys.executable, "-c", program, str(journal.path), database]
    assert json.loads(cursor.read_text())["seq"] == 6
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "6\n"
    assert history(elsewhere) == recorded(journal.path)
    assert history(f"{database}?") == recorded(journal.path)


def test_a_journal_that_lost_its_last_second_is_sent_from_the_start(journal: Journal, database: str) -> None:
    begin(journal, "pretrain")
    measure(journal, "pretrain", range(4))
    sync(journal.path, database)
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join(lines[:4]))  # a power cut: MLflow has seen two records more than the disk
    with closing(Journal(journal.path)) as again:
        again.append("metrics", "pretrain", values={"accuracy": 0.5}, step=9, at=9)
        again.append("metrics", "pretrain", values={"accuracy": 0.6}, step=10, at=10)
    sync(journal.path, database)
    assert recorded(journal.path) <= history(database)


def test_inputs_carry_their_digest_and_source(journal: Journal, database: str) -> None:
    begin(journal, "filter")
    digest = "0123456789abcdef0123456789abcdef01234567"
    source = {"source": "file:///home/artifacts/ingest/0123", "source_type": "local"}
    journal.append("input", "filter", name="ingest", digest=digest, tags={"nightschool.parameter": "raw"}, **source)
    sync(journal.path, database)
    (given,) = runs(database)["filter"].inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest, given.dataset.source_type) == ("ingest", digest[:36], "local")
    assert json.loads(given.dataset.source) == {"uri": source["source"]}
    assert {tag.key: tag.value for tag in given.tags} == {
        "nightschool.digest": digest,
        "nightschool.parameter": "raw",
    }
    import mlflow

    found: Any = mlflow.data.get_source(given.dataset)
    assert found.uri == source["source"]


def test_what_mlflow_refuses_stays_in_the_journal_and_stops_nothing(
    journal: Journal, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(journal, "pretrain")
    measure(journal, "pretrain", range(2))
    journal.append("metrics", "pretrain", values={"what?!": 1.0}, step=0, at=0)
    journal.append("artifact", "pretrain", path=str(tmp_path / "gone.html"), to="")
    measure(journal, "pretrain", range(2, 4))
    sync(journal.path, database)
    found = history(database)
    assert sum(found.values()) == 8
    assert recorded(journal.path) - found == Counter({("pretrain", "what?!", 0, 0, 1.0): 1})
    assert "record 5 (metrics of pretrain)" in caplog.text
    assert "gone.html is gone" in caplog.text


def refusing(database: str, *tables: str) -> AbstractContextManager[None]:
    """MLflow's database as one that can be read and takes nothing into these tables."""

    @contextmanager
    def block() -> Iterator[None]:
        with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection:
            for table in tables:
                for deed in ("INSERT", "UPDATE"):
                    connection.execute(
                        f"CREATE TRIGGER no_{table}_{deed} BEFORE {deed} ON {table} "
                        "BEGIN SELECT RAISE(ABORT, 'attempt to write a readonly database'); END"
                    )
            connection.commit()
            yield
            for table in tables:
                for deed in ("INSERT", "UPDATE"):
                    connection.execute(f"DROP TRIGGER no_{table}_{deed}")
            connection.commit()

    return block()


TABLES = ("runs", "metrics", "latest_metrics", "params", "tags", "experiment_tags")


@pytest.mark.parametrize("begun", [False, True], ids=["before its first record", "in the middle"])
def test_an_mlflow_that_answers_and_takes_nothing_loses_nothing(journal: Journal, database: str, begun: bool) -> None:
    begin(journal, "pretrain")
    if begun:
        measure(journal, "pretrain", range(3))
    else:
        client(database).create_experiment("recipe")
    if begun:
        sync(journal.path, database)
    measure(journal, "pretrain", range(3, 20))
    with refusing(database, *TABLES), pytest.raises(StageError, match=r"does not take night-1\.jsonl"):
        sync(journal.path, database)
    sync(journal.path, database)
    assert history(database) == recorded(journal.path)
    assert set(runs(database)) == {"", "pretrain"}


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_somebody_deleted_by_hand_gets_everything_when_it_is_restored(
    journal: Journal, database: str, what: str
) -> None:
    begin(journal, "pretrain")
    measure(journal, "pretrain", range(3))
    sync(journal.path, database)
    mlflow, run = client(database), runs(database)["pretrain"].info
    if what == "run":
        mlflow.delete_run(run.run_id)
    else:
        mlflow.delete_experiment(run.experiment_id)
    measure(journal, "pretrain", range(3, 20))
    with pytest.raises(StageError, match=r"does not take night-1\.jsonl"):
        sync(journal.path, database)
    if what == "run":
        mlflow.restore_run(run.run_id)
    else:
        mlflow.restore_experiment(run.experiment_id)
    sync(journal.path, database)
    assert history(database) == recorded(journal.path)
    assert set(runs(database)) == {"", "pretrain"}


def test_an_answer_that_gets_lost_makes_no_second_run(
    journal: Journal, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    create, lost = MlflowClient.create_run, iter([True, False, True])

    def create_and_lose(self: MlflowClient, *arguments: Any, **named: Any) -> Any:
        made = create(self, *arguments, **named)
        if next(lost, False):
            raise ConnectionError("the answer got lost")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", create_and_lose)
    begin(journal, "pretrain")
    measure(journal, "pretrain", range(3))
    sync(journal.path, database)
    (experiment,) = [found for found in client(database).search_experiments() if found.name == "recipe"]
    assert len(client(database).search_runs([experiment.experiment_id])) == 2
    assert history(database) == recorded(journal.path)


def test_a_line_that_is_no_record_is_named_and_the_others_are_sent(
    journal: Journal, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    begin(journal, "pretrain")
    measure(journal, "pretrain", range(2))
    with journal.path.open("ab") as file:
        file.write(b"{not json}\n[]\n")
    with closing(Journal(journal.path)) as again:
        measure(again, "pretrain", range(2, 4))
    sync(journal.path, database)
    assert history(database) == recorded(journal.path)
    assert sum(history(database).values()) == 8
    assert "is no record; it is passed over" in caplog.text


def test_long_values_are_cut_and_say_so(journal: Journal, database: str) -> None:
    begin(journal, "ingest")
    journal.append("params", "ingest", values={"paths": "x" * 7000})
    sync(journal.path, database)
    value = runs(database)["ingest"].data.params["paths"]
    assert len(value) == 6000
    assert value.endswith("x ... [7000 characters in all]")


def test_more_values_than_one_call_takes_all_arrive(journal: Journal, database: str) -> None:
    begin(journal, "a")
    journal.append("params", "a", values={f"p{i}": i for i in range(250)})
    journal.append("tags", "a", values={f"t{i}": i for i in range(150)})
    journal.append("metrics", "a", values={f"m{i}": float(i) for i in range(2500)}, step=0, at=1)
    sync(journal.path, database)
    run = runs(database)["a"]
    assert run.data.params == {f"p{i}": str(i) for i in range(250)}
    assert {f"t{i}" for i in range(150)} <= set(run.data.tags)
    assert run.data.metrics == {f"m{i}": float(i) for i in range(2500)}


def test_not_a_number_and_infinity_are_points_like_others(journal: Journal, database: str) -> None:
    begin(journal, "pretrain")
    journal.append("metrics", "pretrain", values={"loss": float("nan")}, step=0, at=1)
    journal.append("metrics", "pretrain", values={"loss": 2.0}, step=1, at=2)
    sync(journal.path, database)
    next(journal.path.parent.glob("*.cursor")).unlink()
    sync(journal.path, database)
    points = client(database).get_metric_history(runs(database)["pretrain"].info.run_id, "loss")
    assert [(point.step, point.value == point.value) for point in points] == [(0, False), (1, True)]


def test_two_processes_do_not_send_one_journal(journal: Journal, database: str) -> None:
    begin(journal)
    assert sync(journal.path, database) == 1
    with subprocess.Popen(
        [sys.executable, "-c", SENDER, str(journal.path), database], cwd=ROOT, stdout=subprocess.PIPE
    ) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == b"started\n"
            lock = next(journal.path.parent.glob("*.lock"))
            wait_until(lambda: is_locked(lock))
            with pytest.raises(StageError, match="another process is sending"):
                sync(journal.path, database)
        finally:
            other.kill()
    assert sync(journal.path, database) == 0


def test_an_mlflow_that_is_not_there_neither_blocks_nor_fails(journal: Journal, free_port: int) -> None:
    sender = Sender(journal.path, f"http://127.0.0.1:{free_port}").start()
    begin(journal, "pretrain")
    measure(journal, "pretrain", range(1000))
    assert sender.drain(1) == 1002
    with pytest.raises(StageError, match="nightschool up"):
        sync(journal.path, f"http://127.0.0.1:{free_port}")


def test_a_password_in_the_uri_is_not_shown(journal: Journal, free_port: int) -> None:
    begin(journal)
    with pytest.raises(StageError) as caught:
        sync(journal.path, f"http://me:secret@127.0.0.1:{free_port}")
    assert "secret" not in str(caught.value)
    assert "http://127.0.0.1" in str(caught.value)


def test_a_sender_killed_at_random_moments_leaves_no_gap_and_no_double(journal: Journal, database: str) -> None:
    moments = random.Random(7)
    begin(journal, *[f"stage-{i}" for i in range(6)])
    for round_ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", SENDER, str(journal.path), database],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as sender:
            assert sender.stdout is not None and sender.stderr is not None
            sender.stdout.readline()
            # The first is killed while it makes the database; the others once they send, which the cursor shows.
            cursors = [path.read_text() for path in journal.path.parent.glob("*.cursor")]
            if round_ == 0:
                time.sleep(moments.uniform(1.5, 4))
            for step in range(400):
                measure(journal, f"stage-{step % 6}", range(round_ * 400 + step, round_ * 400 + step + 1))
                if step % 40 == 0:
                    journal.append("start", f"late-{round_}-{step}", name="late", tags={})
            if round_:
                wait_until(lambda: [p.read_text() for p in journal.path.parent.glob("*.cursor")] != cursors)  # noqa: B023
                time.sleep(moments.uniform(0, 0.4))
            sender.kill()
            assert sender.stderr.read() == b""
    sync(journal.path, database)
    assert history(database) == recorded(journal.path)
    assert sum(recorded(journal.path).values()) == 3200
    assert len(runs(database)) == 7 + 40


def test_a_server_that_dies_and_comes_back_misses_nothing(journal: Journal, tmp_path: Path, free_port: int) -> None:
    uri = f"http://127.0.0.1:{free_port}"
    begin(journal, "pretrain")
    sender = Sender(journal.path, uri).start()
    writing = threading.Event()
    writing.set()

    def train() -> None:
        step = 0
        while writing.is_set():
            measure(journal, "pretrain", range(step, step + 1))
            step += 1
            time.sleep(0.01)

    training = threading.Thread(target=train)
    training.start()
    try:
        with mlflow_server(tmp_path, free_port):
            wait_until(lambda: sum(history(uri).values()) > 100 if "pretrain" in runs_or_none(uri) else False)
        time.sleep(3)
        before = sum(recorded(journal.path).values())
        with mlflow_server(tmp_path, free_port):
            wait_until(lambda: sum(history(uri).values()) > before)
            writing.clear()
            training.join()
            journal.append("end", "pretrain", status="FINISHED")
            assert sender.drain(60) == 0
            assert history(uri) == recorded(journal.path)
            assert runs(uri)["pretrain"].info.status == "FINISHED"
    finally:
        writing.clear()
        training.join()


@pytest.mark.parametrize("served", [False, True], ids=["database", "server"])
def test_an_exported_model_loads_from_the_registry(
    served: bool, journal: Journal, database: str, tmp_path: Path, free_port: int
) -> None:
    export_tiny_model(tmp_path / "export")
    begin(journal, "export")
    tags = {"nightschool.stage": "export"}
    journal.append("model", "export", name="tiny", path=str(tmp_path / "export"), digest="d" * 40, tags=tags)
    with mlflow_server(tmp_path, free_port) if served else nullcontext():
        uri = f"http://127.0.0.1:{free_port}" if served else database
        sync(journal.path, uri)
        run = runs(uri)["export"]
        (version,) = client(uri).search_model_versions("name = 'tiny'")
        assert version.run_id == run.info.run_id
        assert version.tags == tags | {"nightschool.digest": "d" * 40, "nightschool.run": "night-1"}
        (output,) = run.outputs.model_outputs
        model = client(uri).get_logged_model(output.model_id)
        assert (model.name, model.source_run_id, str(model.status)) == ("tiny", run.info.run_id, "READY")
        program = (
            "import sys, mlflow\n"
            "mlflow.set_tracking_uri(sys.argv[1])\n"
            "pipe = mlflow.transformers.load_model('models:/tiny/1')\n"
            "print(type(pipe.model).__name__, len(pipe('the fox', max_new_tokens=3)))\n"
            "print(len(mlflow.pyfunc.load_model('models:/tiny/1').predict(['the fox'], {'max_new_tokens': 3})))\n"
        )
        # A process of its own, because `mlflow.set_tracking_uri` is for the whole process.
        loaded = subprocess.run([sys.executable, "-c", program, uri], capture_output=True, text=True, check=True)
        assert loaded.stdout.splitlines() == ["Qwen3ForCausalLM 1", "1"], loaded.stderr


def test_a_night_without_the_server_goes_on_where_one_with_it_left_off(
    journal: Journal, database: str, tmp_path: Path, free_port: int
) -> None:
    (tmp_path / "report.html").write_text("report")
    uri = f"http://127.0.0.1:{free_port}"
    begin(journal, "report")
    journal.append("artifact", path=str(tmp_path / "report.html"), to="first")
    with mlflow_server(tmp_path, free_port):
        sync(journal.path, uri)
        night = runs(uri)[""].info.run_id
    journal.append("artifact", path=str(tmp_path / "report.html"), to="second")
    sync(journal.path, database)
    assert runs(database)[""].info.run_id == night
    with mlflow_server(tmp_path, free_port):
        journal.append("artifact", path=str(tmp_path / "report.html"), to="third")
        sync(journal.path, uri)
        listed = [file.path for to in ("first", "second", "third") for file in client(uri).list_artifacts(night, to)]
    assert listed == ["first/report.html", "second/report.html", "third/report.html"]


def is_locked(path: Path) -> bool:
    import fcntl

    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def runs_or_none(uri: str) -> dict[str, Any]:
    return runs(uri) if client(uri).get_experiment_by_name("recipe") else {}


def export_tiny_model(folder: Path) -> None:
    """A Hugging Face folder as the export stage writes it, with random weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the quick brown fox"], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=special[0], bos_token=special[0], pad_token=special[1]
    ).save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
