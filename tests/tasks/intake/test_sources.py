"""Sources that are not on this disk: a real S3 server on loopback, and Hugging Face datasets."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core.batches import Batches
from tasks.core.errors import StageError, UserError
from tasks.core.stage import StageLog
from tasks.corpus.ingest import IngestSettings, ingest, take_inventory
from tasks.intake.sources import Datasets, Files
from tests.corpora import Row, fresh, rows_of


def rows(folder: Path, source: Files | Datasets) -> list[Row]:
    settings = IngestSettings(sources=(source,))
    ingest(take_inventory(settings), settings, fresh(folder), StageLog(), Batches(folder.parent / f"b-{folder.name}"))
    return rows_of(folder)


def bucket_files(*paths: str, **options: Any) -> Files:
    return Files(paths=paths, name="bucket", **options)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 server with the bucket `corpus`, known to the environment, and a client of it."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="corpus")
        yield client
    server.stop()


def put(s3: Any, files: dict[str, bytes]) -> None:
    for key, body in files.items():
        s3.put_object(Bucket="corpus", Key=key, Body=body)


def test_a_bucket_reads_like_a_folder(s3: Any, tmp_path: Path) -> None:
    import gzip

    put(
        s3,
        {
            "like/a.jsonl.gz": gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'),
            "like/deep/b.txt": b"bee",
            "like/c.csv": b"text\nsea\n",
            "like/ignored.bin": b"\xff",
        },
    )
    assert rows(tmp_path / "folder", bucket_files("s3://corpus/like")) == [
        ("bucket/a.jsonl.gz#0", "one", "bucket"),
        ("bucket/a.jsonl.gz#1", "two", "bucket"),
        ("bucket/c.csv#0", "sea", "bucket"),
        ("bucket/deep/b.txt", "bee", "bucket"),
    ]
    assert [row[0] for row in rows(tmp_path / "glob", bucket_files("s3://corpus/like/*/*.txt"))] == [
        "bucket/deep/b.txt"
    ]
    assert [row[0] for row in rows(tmp_path / "file", bucket_files("s3://corpus/like/c.csv"))] == ["bucket/c.csv#0"]


def test_parquet_in_a_bucket_is_read_by_row_groups(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    import polars as pl

    content = io.BytesIO()
    pl.DataFrame({"text": [f"{n}" * 100 for n in range(50)]}).write_parquet(content, row_group_size=8)
    put(s3, {"groups/a.parquet": content.getvalue()})
    monkeypatch.setattr("tasks.intake.dividing.LOOK_INSIDE", 0)
    monkeypatch.setattr("tasks.intake.dividing.BATCH_BYTES", 1000)
    found = rows(tmp_path / "out", bucket_files("s3://corpus/groups/a.parquet"))
    assert found == [(f"bucket/a.parquet#{n}", f"{n}" * 100, "bucket") for n in range(50)]
    assert len(list((tmp_path / "b-out" / "read").iterdir())) == 7


def test_only_objects_that_are_new_or_changed_are_news(s3: Any) -> None:
    put(s3, {"news/a.txt": b"one", "news/b.txt": b"two"})
    settings = IngestSettings(sources=(bucket_files("s3://corpus/news/*.txt"),))
    first = take_inventory(settings).minus([])
    assert take_inventory(settings).minus([first]).is_empty
    put(s3, {"news/b.txt": b"owt", "news/c.txt": b"new"})  # b keeps its size
    news = take_inventory(settings).minus([first])
    assert [unit.label for unit in news.stocks[0].units] == ["bucket/b.txt@2", "bucket/c.txt"]


def test_an_object_that_changes_after_the_inventory_fails_the_stage(s3: Any, tmp_path: Path) -> None:
    put(s3, {"changing/a.txt": b"one"})
    settings = IngestSettings(sources=(bucket_files("s3://corpus/changing/a.txt"),))
    inventory = take_inventory(settings)
    put(s3, {"changing/a.txt": b"two"})
    with pytest.raises(StageError, match=r"s3://corpus/changing/a.txt changed while it was being read"):
        ingest(inventory, settings, fresh(tmp_path / "out"), StageLog(), Batches(tmp_path / "batches"))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("s3://corpus/absent.txt", "there is no file s3://corpus/absent.txt; correct its `paths`"),
        ("s3://corpus/*.absent", r"no file matches s3://corpus/\*.absent"),
        ("s3://no-such-bucket/x.txt", "there is no file s3://no-such-bucket/x.txt"),
        ("nothing://x/y.txt", "nothing://, which fsspec does not know"),
    ],
)
def test_an_address_that_leads_nowhere_is_the_users_mistake(s3: Any, path: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        take_inventory(IngestSettings(sources=(bucket_files(path),)))


def test_a_server_that_does_not_answer_is_no_reason_to_refuse_files(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    put(s3, {"down/a.txt": b"one"})
    settings = IngestSettings(sources=(bucket_files("s3://corpus/down/a.txt"),))
    inventory = take_inventory(settings)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(StageError, match=r"s3://corpus/down/a.txt cannot be listed .*run again"):
            take_inventory(settings)
        with pytest.raises(StageError, match=r"s3://corpus/down/a.txt cannot be read .*run again"):
            ingest(inventory, settings, fresh(tmp_path / "out"), StageLog(), Batches(tmp_path / "batches"))
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_package_that_an_address_needs_is_named() -> None:
    pytest.importorskip("fsspec")
    import importlib.util

    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed here")
    with pytest.raises(UserError, match=r"gs://x/y.txt needs a package that is not installed: .*install gcsfs"):
        take_inventory(IngestSettings(sources=(bucket_files("gs://x/y.txt"),)))


def dataset(path: Path | str, **options: Any) -> Datasets:
    return Datasets(path=str(path), name="set", **options)


def test_a_dataset_saved_to_disk_is_read_by_its_files(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]})
    data.save_to_disk(tmp_path / "one", num_shards=2)
    assert rows(tmp_path / "out-one", dataset(tmp_path / "one")) == [
        ("set/data-00000-of-00002.arrow#0", "a", "set"),
        ("set/data-00000-of-00002.arrow#1", "b", "set"),
        ("set/data-00001-of-00002.arrow#0", "c", "set"),
    ]
    datasets.DatasetDict(train=data, test=data.select([2])).save_to_disk(tmp_path / "two")
    assert rows(tmp_path / "out-two", dataset(tmp_path / "two", split="test")) == [
        ("set/test/data-00000-of-00001.arrow#0", "c", "set")
    ]
    with pytest.raises(UserError, match=r"'set': .*two has no split 'dev' but train, test; correct `split`"):
        rows(tmp_path / "out-dev", dataset(tmp_path / "two", split="dev"))


def test_a_folder_that_load_dataset_takes_is_read_by_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    (folder / "train-00000.jsonl").write_text('{"text": "a"}\n')
    (folder / "test-00000.jsonl").write_text('{"text": "b"}\n')
    assert rows(tmp_path / "out", dataset(tmp_path / "set")) == [("set/data/train-00000.jsonl#0", "a", "set")]
    with pytest.raises(UserError, match="has no split 'dev' but train, test"):
        rows(tmp_path / "out-dev", dataset(tmp_path / "set", split="dev"))
    with pytest.raises(UserError, match=r"cannot be opened .*'other'.*; correct `path` or `config`"):
        rows(tmp_path / "out-other", dataset(tmp_path / "set", config="other"))


def test_a_dataset_out_of_reach_is_one_sentence() -> None:
    code = """
from tasks.intake.sources import Datasets
try:
    Datasets(path="no/such-dataset", name="set").take_stock()
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        "UserError Source 'set': the dataset no/such-dataset is no folder here, and the hub is out of reach; correct "
        "`path`, or connect to the network.\n"
    )
