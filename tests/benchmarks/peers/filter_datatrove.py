"""datatrove's four quality filters with their defaults, in FineWeb's order: corpus folder, output folder.

English words come from spaCy's rules, which need no model and no network.
"""

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter


def main(corpus: str, out: str) -> None:
    shutil.rmtree(out, ignore_errors=True)
    pipeline = [
        ParquetReader(corpus, glob_pattern="documents-*.parquet", text_key="text", id_key="doc_id"),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(),
        FineWebQualityFilter(),
        ParquetWriter(f"{out}/kept"),
    ]
    LocalPipelineExecutor(pipeline, tasks=1, workers=1, logging_dir=f"{out}/logs").run()
    kept = [name for path in Path(out, "kept").glob("*.parquet") for name in pq.read_table(path)["id"].to_pylist()]
    Path(out, "kept.json").write_text(json.dumps(kept))
    print(json.dumps({"kept": len(kept)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
