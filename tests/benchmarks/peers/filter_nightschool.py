"""The filter stage by itself with all four rule sets: corpus folder, output folder."""

import json
import shutil
import sys
from pathlib import Path

from tasks.core.artifact import Artifact
from tasks.core.batches import Batches
from tasks.core.stage import StageLog
from tasks.corpus.filter import FilterSettings, filter

SETTINGS = FilterSettings.model_validate({"c4": {}, "fineweb": {}, "mask": None})


def main(corpus: str, out: str) -> None:
    folder = Path(out)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    documents = Artifact.of("corpus", Path(corpus))
    metrics = filter(documents, SETTINGS, folder / "files", StageLog(), Batches(folder / "work"))
    print(json.dumps({"kept": metrics["kept"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
