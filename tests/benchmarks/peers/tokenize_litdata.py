"""litdata's optimize with two workers, for its TokensLoader: `run INPUT TOKENIZER OUT` or `sums ...`."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

mode, source, tokenizer, out = sys.argv[1], *map(Path, sys.argv[2:5])
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# litdata empties these folders; by default they lie in the system's temporary folder, where they may be another's.
os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = str(out / "cache-data")
os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(out / "cache-chunks")


def encode(path: str) -> Iterator[Any]:
    import numpy as np
    import pyarrow.parquet as pq
    import torch
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    for batch in pq.ParquetFile(path).iter_batches(1000, columns=["text"]):
        for encoding in encoder.encode_batch_fast(batch["text"].to_pylist(), add_special_tokens=False):
            yield torch.from_numpy(np.array([*encoding.ids, 0], dtype=np.int16))


if mode == "run" and __name__ == "__main__":
    from litdata import TokensLoader, optimize

    optimize(
        encode,
        sorted(map(str, source.glob("*.parquet"))),
        output_dir=str(out / "tokens"),
        chunk_bytes="64MB",
        num_workers=2,
        item_loader=TokensLoader(),
    )
    print(json.dumps({}))
elif __name__ == "__main__":
    import numpy as np
    from token_sums import print_sums

    parts = []
    for path in sorted((out / "tokens").glob("*.bin")):
        content = path.read_bytes()
        items = np.frombuffer(content, dtype=np.uint32, count=1)[0]  # then the offset of each item, and the tokens
        parts.append(np.frombuffer(content, dtype=np.uint16, offset=4 * (int(items) + 2)))
    print_sums(parts, end=0)
