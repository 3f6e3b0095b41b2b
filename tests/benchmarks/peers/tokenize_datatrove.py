"""datatrove's DocumentTokenizer with two worker processes: `run INPUT TOKENIZER OUT` or `sums ...`."""

import json
import os
import sys
from pathlib import Path

mode, source, tokenizer, out = sys.argv[1], *map(Path, sys.argv[2:5])

os.environ["TOKENIZERS_PARALLELISM"] = "false"


def main() -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    pipeline = [
        ParquetReader(str(source), glob_pattern="*.parquet", text_key="text", id_key="doc_id"),
        DocumentTokenizer(
            output_folder=str(out / "tokens"),
            tokenizer_name_or_path=str(tokenizer / "tokenizer.json"),
            eos_token=settings["eos_token"],
            shuffle_documents=False,
        ),
    ]
    files = len(list(source.glob("*.parquet")))
    LocalPipelineExecutor(pipeline, tasks=files, workers=2, logging_dir=str(out / "logs")).run()
    print(json.dumps({}))


if mode == "run" and __name__ == "__main__":  # its workers import this file again
    main()
elif __name__ == "__main__":
    import numpy as np
    from token_sums import print_sums

    print_sums([np.fromfile(path, dtype=np.uint16) for path in sorted((out / "tokens").glob("*.ds"))], end=0)
