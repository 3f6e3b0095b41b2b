"""Near-duplicate removal by the stage, as a flow runs it with threads.

python -m tests.benchmarks.peers.deduplicate_nightschool CORPUS OUT
"""

import json
import shutil
import sys
from pathlib import Path

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches
from tasks.core.stage import StageLog
from tasks.corpus.deduplicate import DeduplicateSettings, deduplicate


def main() -> None:
    corpus, out = map(Path, sys.argv[1:])
    work = out.with_name(f"{out.name}-batches")
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True)
    documents = Artifact("corpus", "", corpus)
    print(json.dumps(deduplicate(documents, (), DeduplicateSettings(), out, StageLog(), Batches(work))))


if __name__ == "__main__":
    main()
