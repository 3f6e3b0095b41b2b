"""The data stages of a recipe from an empty home, or from a copy of a home that has earlier nights behind it.

python -m tests.benchmarks.peers.incremental_nightschool RECIPE HOME [EARLIER]
"""

import json
import os
import shutil
import sys
from pathlib import Path

from tests.plain import run_corpus


def main() -> None:
    recipe, home, *earlier = map(Path, sys.argv[1:])
    shutil.rmtree(home, ignore_errors=True)
    if earlier:
        shutil.copytree(earlier[0] / "artifacts", home / "artifacts", copy_function=os.link)
        for name in ("keys", "partitions"):
            shutil.copytree(earlier[0] / name, home / name)
    ended = {outcome.node: outcome for outcome in run_corpus(recipe, home)}
    metrics = home / "artifacts" / "deduplicate" / ended["deduplicate"].digest / "metrics.json"
    seconds = {node: round(outcome.seconds, 1) for node, outcome in ended.items()}
    print(json.dumps({"kept": json.loads(metrics.read_bytes())["kept"], "seconds": seconds}))


if __name__ == "__main__":
    main()
