"""The journal: every record once, in order, through kills and torn lines."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tasks.core.journal import Journal, read_journal


def test_records_are_numbered_and_read_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    assert journal.append("start", "ingest", name="ingest") == 1
    assert journal.append("metrics", "ingest", values={"kept": 3.0}, step=0, at=5) == 2
    journal.close()
    first, second = read_journal(tmp_path / "j.jsonl")
    assert (first.seq, first.kind, first.node, first.payload) == (1, "start", "ingest", {"name": "ingest"})
    assert second.payload == {"values": {"kept": 3.0}, "step": 0, "at": 5}
    assert [record.seq for record in read_journal(tmp_path / "j.jsonl", after=1)] == [2]


def test_a_torn_line_is_cut_off_and_the_numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.append("start")
    journal.close()
    with open(path, "ab") as file:
        file.write(b'{"seq": 2, "kind": "met')
    assert [record.seq for record in read_journal(path)] == [1]
    again = Journal(path)
    assert again.append("end", status="FINISHED") == 2
    again.close()
    assert [record.kind for record in read_journal(path)] == ["start", "end"]


def test_a_journal_that_does_not_exist_has_no_records(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none.jsonl")) == []


def test_threads_do_not_share_a_number(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    threads = [threading.Thread(target=lambda: [journal.append("tags") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert [record.seq for record in read_journal(journal.path)] == list(range(1, 201))


def test_a_killed_writer_loses_no_record_that_it_was_told_is_written(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    code = (
        "import sys; from pathlib import Path; from tasks.core.journal import Journal\n"
        f"journal = Journal(Path({str(path)!r}))\n"
        "while True: print(journal.append('metrics', values={'loss': 1.0}), flush=True)"
    )
    for trial in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        reader: list[bytes] = []
        thread = threading.Thread(target=lambda p=process, r=reader: r.extend(p.stdout))
        thread.start()
        time.sleep(random.Random(trial).uniform(0.02, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        thread.join()
        told = int([line for line in reader if line.endswith(b"\n")][-1])
        numbers = [record.seq for record in read_journal(path)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert told <= len(numbers)
