"""Near-duplicate removal by datatrove's four stages: corpus folder, output folder, workers.

Its published example (5-grams, 14 buckets of 8, 64-bit hashes), with as many workers as the other sides have threads.
"""

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.typeshelper import Languages

BUCKETS = 14


def main(corpus: str, out: str, workers: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    config = MinhashConfig(hash_config=HashConfig(precision=64), n_grams=5, num_buckets=BUCKETS, hashes_per_bucket=8)
    files = len(list(Path(corpus).glob("documents-*.parquet")))

    def reader() -> ParquetReader:
        return ParquetReader(corpus, glob_pattern="documents-*.parquet", text_key="text", id_key="doc_id")

    stages = {
        "signatures": (files, [reader(), MinhashDedupSignature(f"{out}/signatures", config, Languages.english)]),
        "buckets": (BUCKETS, [MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)]),
        "clusters": (1, [MinhashDedupCluster(f"{out}/buckets", f"{out}/clusters", config=config)]),
        "filter": (files, [reader(), MinhashDedupFilter(f"{out}/clusters"), ParquetWriter(f"{out}/kept")]),
    }
    for name, (tasks, pipeline) in stages.items():
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=workers, logging_dir=f"{out}/logs/{name}").run()
    kept = [
        doc_id
        for path in sorted(Path(out, "kept").glob("*.parquet"))
        for doc_id in pq.read_table(path, columns=["id"])["id"].to_pylist()
    ]
    Path(out, "kept.json").write_text(json.dumps(kept))
    print(json.dumps({"kept": len(kept)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
