"""The store: whole or not at all, named by content, verified on reuse."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.artifact import Artifact, Reference, Request, digest_of, find_damage, hash_files
from tasks.core.errors import StageError
from tasks.core.store import Store


def request(stage: str = "count", **settings: object) -> Request:
    return Request(
        stage=stage, version=1, inputs={}, settings=settings, code={"m": "c0de"}, libraries={"polars": "2.1.0"}
    )


def commit(store: Store, asked: Request, content: str, metrics: dict[str, int | float] | None = None) -> Artifact:
    out = store.scratch(asked.key) / "out"
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "words.txt").write_text(content)
    return store.commit(asked, out, metrics or {"words": 2})


def test_a_committed_artifact_is_found_by_its_key_with_its_files_and_metrics(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = commit(store, request(limit=3), "two words")
    found = store.find(request(limit=3), warn=pytest.fail)
    assert found == made
    assert (found.path / "deep" / "words.txt").read_text() == "two words"
    assert found.metrics == {"words": 2}
    assert found.manifest.settings == {"limit": 3}
    assert [entry.path for entry in found.manifest.files] == ["deep/words.txt", "metrics.json"]


def test_another_setting_input_version_code_or_library_is_another_key() -> None:
    base = request(limit=3)
    others = [
        request(limit=4),
        base.model_copy(update={"version": 2}),
        base.model_copy(update={"code": {"m": "beef"}}),
        base.model_copy(update={"libraries": {"polars": "2.1.1"}}),
        base.model_copy(update={"inputs": {"documents": Reference(stage="ingest", digest="d")}}),
    ]
    keys = [Request.model_validate(other.model_dump()).key for other in [base, *others]]
    assert len(set(keys)) == 6


def test_the_same_bytes_have_one_digest_in_any_store_and_for_any_question(tmp_path: Path) -> None:
    first = commit(Store(tmp_path / "a"), request(limit=3), "two words")
    second = commit(Store(tmp_path / "b"), request(limit=4), "two words")
    assert first.digest == second.digest


def test_two_questions_with_one_answer_share_the_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = commit(store, request(limit=3), "same"), commit(store, request(limit=4), "same")
    assert first.path == second.path
    assert first.manifest.settings == {"limit": 3}
    assert [record.request.settings for record in store.records("count")] == [{"limit": 4}, {"limit": 3}]


def test_the_manifest_holds_nothing_that_differs_between_two_equal_runs(tmp_path: Path) -> None:
    manifests = [commit(Store(tmp_path / name), request(), "x").path / "manifest.json" for name in "ab"]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    assert str(tmp_path) not in manifests[0].read_text()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.unlink(), "deep/words.txt is missing"),
        (lambda file: file.write_text("two wordss"), "deep/words.txt has 10 bytes instead of 9"),
        (lambda file: file.write_text("two wordz"), "the bytes of deep/words.txt have changed"),
    ],
)
def test_a_damaged_artifact_is_named_moved_aside_and_made_again(
    tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    store = Store(tmp_path)
    warnings: list[str] = []
    file = commit(store, request(), "two words").path / "deep" / "words.txt"
    file.chmod(0o644)
    harm(file)
    assert store.find(request(), warn=warnings.append) is None
    assert said in warnings[0]
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    again = commit(store, request(), "two words")
    assert find_damage(again, sampled_bytes=None) is None
    assert store.find(request(), warn=pytest.fail) == again


def test_a_manifest_of_another_artifact_is_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, other = commit(store, request(a=1), "one"), commit(store, request(a=2), "other")
    (one.path / "manifest.json").write_bytes((other.path / "manifest.json").read_bytes())
    assert find_damage(Artifact(one.stage, one.digest, one.path)) == "its manifest does not belong to its digest"


def test_a_writer_that_lost_its_lease_commits_nothing(tmp_path: Path) -> None:
    @contextmanager
    def lost() -> Iterator[None]:
        raise StageError("lost")
        yield

    store = Store(tmp_path)
    out = store.scratch("k") / "out"
    out.mkdir(parents=True)
    with pytest.raises(StageError, match="lost"):
        store.commit(request(), out, {}, lost)
    assert store.find(request(), warn=pytest.fail) is None
    assert not list((tmp_path / "artifacts").rglob("manifest.json"))


def test_two_finders_of_one_damaged_artifact_both_go_on(tmp_path: Path) -> None:
    store, said = Store(tmp_path), list[str]()
    made = commit(store, request(), "x")
    (made.path / "deep" / "words.txt").chmod(0o600)
    (made.path / "deep" / "words.txt").write_text("y")
    other = Store(tmp_path)
    move = other.set_aside

    def after_the_other(artifact: Artifact) -> Path | None:
        assert move(artifact) is not None
        return store.set_aside(artifact)

    store_that_is_late = Store(tmp_path)
    store_that_is_late.set_aside = after_the_other  # type: ignore[method-assign]
    assert store_that_is_late.find(request(), said.append) is None
    assert "another process has moved it aside and is derived again" in said[0]


def test_two_committers_of_one_digest_both_answer_their_request(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked = [request(a=number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda one: commit(store, one, "the same"), asked))
    assert len({artifact.digest for artifact in made}) == 1
    assert all(store.find(one, warn=pytest.fail) is not None for one in asked)
    assert find_damage(made[0], None) is None


def test_a_link_in_the_output_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    out = store.scratch("k") / "out"
    out.mkdir(parents=True)
    (out / "link").symlink_to("/etc/hostname")
    with pytest.raises(StageError, match="link is not a plain file"):
        store.commit(request(), out, {})


def test_a_torn_key_file_is_no_answer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, request(), "x")
    key_file = tmp_path / "keys" / "count" / f"{request().key}.json"
    key_file.write_text(key_file.read_text()[:20])
    assert store.find(request(), warn=pytest.fail) is None


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=40), min_size=1, max_size=4))
def test_the_digest_depends_on_names_and_bytes_only(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    digests = set()
    for order in (sorted(files), sorted(files, reverse=True)):
        folder = tmp_path_factory.mktemp("digest")
        for name in order:
            (folder / name).write_bytes(files[name])
        digests.add(digest_of(hash_files(folder)))
    first = sorted(files)[0]
    (folder / first).write_bytes(files[first] + b"!")
    assert len(digests) == 1
    assert digest_of(hash_files(folder)) not in digests


def test_run_facts_stand_beside_the_manifest_and_outside_the_digest(tmp_path: Path) -> None:
    from tasks.core.artifact import write_run_record

    made = commit(Store(tmp_path), request(), "x")
    write_run_record(made, "20260101-000000-abcd", "count", started=0.0)
    assert json.loads((made.path / "run.json").read_text())["run"] == "20260101-000000-abcd"
    assert Artifact.of("count", made.path).digest == made.digest
