"""`datasets.map` in batches with two processes, then save_to_disk: `run INPUT TOKENIZER OUT` or `sums ...`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

mode, source, tokenizer, out = sys.argv[1], *map(Path, sys.argv[2:5])
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def main() -> None:
    from datasets import Features, Sequence, Value, disable_progress_bars, load_dataset
    from tokenizers import Tokenizer

    disable_progress_bars()
    encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))

    def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
        encodings = encoder.encode_batch_fast(rows["text"], add_special_tokens=False)
        return {"tokens": [[*encoding.ids, 0] for encoding in encodings]}

    files = sorted(map(str, source.glob("*.parquet")))
    documents = load_dataset("parquet", data_files=files, split="train", cache_dir=str(out / "cache"))
    columns = {"doc_id": Value("string"), "source": Value("string"), "tokens": Sequence(Value("uint16"))}
    encoded = documents.map(encode, batched=True, num_proc=2, remove_columns=["text"], features=Features(columns))
    encoded.save_to_disk(str(out / "tokens"))
    print(json.dumps({"documents": len(encoded)}))


if mode == "run" and __name__ == "__main__":
    main()
elif __name__ == "__main__":
    from datasets import load_from_disk
    from token_sums import print_sums

    tokens = load_from_disk(str(out / "tokens")).data.column("tokens")
    print_sums([chunk.flatten().to_numpy() for chunk in tokens.chunks], end=0)
