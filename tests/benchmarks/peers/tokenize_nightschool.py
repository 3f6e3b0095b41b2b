"""Our side: the stage as a flow calls it, on the same files. `run INPUT TOKENIZER OUT` or `sums ...`."""

import json
import sys
from pathlib import Path

mode, source, tokenizer, out = sys.argv[1], *map(Path, sys.argv[2:5])

if mode == "run":
    from tasks.core.artifact import Artifact
    from tasks.core.batches import Batches
    from tasks.core.stage import StageLog
    from tasks.corpus.tokenize import TokenizeSettings, tokenize

    (out / "shards").mkdir(parents=True)
    inputs = [Artifact(name, "0" * 40, path) for name, path in (("documents", source), ("tokenizer", tokenizer))]
    metrics = tokenize(*inputs, TokenizeSettings(), out / "shards", StageLog(), Batches(out / "batches"))
    print(json.dumps({"documents": metrics["train_documents"]}))
else:
    import pyarrow as pa
    from token_sums import print_sums

    readers = [pa.ipc.open_file(pa.memory_map(str(path))) for path in sorted((out / "shards").glob("train-*.arrow"))]
    batches = [reader.get_batch(index) for reader in readers for index in range(reader.num_record_batches)]
    print_sums([batch["tokens"].flatten().to_numpy() for batch in batches], end=0)
