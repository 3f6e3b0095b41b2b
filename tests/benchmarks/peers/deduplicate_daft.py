"""Near-duplicate removal with daft: its minhash expression, LSH by a group-by, connected components, filter.

Arguments: corpus folder, output folder. The clustering of the edges (some thousands) is left to scipy, which is faster
than any way to say it in data frames; one document a cluster is kept, the earliest.
"""

import json
import shutil
import sys

import daft
import numpy as np
from daft import col
from daft.functions import hash, minhash, monotonically_increasing_id, normalize, slice, to_list
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BANDS, ROWS, WORDS = 14, 8, 5


def main(corpus: str, out: str) -> None:
    shutil.rmtree(out, ignore_errors=True)
    documents = daft.read_parquet(f"{corpus}/documents-*.parquet")
    words = normalize(col("text"), remove_punct=True, lowercase=True, white_space=True)
    signed = (
        documents.select("doc_id", minhash(words, num_hashes=BANDS * ROWS, ngram_size=WORDS).alias("values"))
        .with_column("number", monotonically_increasing_id())
        .collect()
    )
    ids = signed.select("doc_id", "number").to_arrow()
    numbers = ids["number"].to_numpy()
    keys = [hash(slice(col("values"), band * ROWS, (band + 1) * ROWS), seed=band) for band in range(BANDS)]
    edges = (
        signed.select("number", to_list(*keys).alias("key"))
        .explode("key")
        .groupby("key")
        .agg(
            col("number").list_agg().alias("members"),
            col("number").min().alias("first"),
            col("number").count().alias("size"),
        )
        .where(col("size") > 1)
        .explode("members")
        .select("members", "first")
        .to_arrow()
    )
    order = np.argsort(numbers)
    ends = [order[np.searchsorted(numbers[order], edges[name].to_numpy())] for name in ("members", "first")]
    graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(len(numbers), len(numbers)))
    _, clusters = connected_components(graph, directed=False)
    _, kept = np.unique(clusters, return_index=True)
    chosen = ids["doc_id"].take(np.sort(kept))
    documents.join(daft.from_pydict({"doc_id": chosen}), on="doc_id", how="semi").write_parquet(
        f"{out}/kept", compression="zstd"
    )
    with open(f"{out}/kept.json", "w") as file:
        json.dump(chosen.to_pylist(), file)
    print(json.dumps({"kept": len(kept)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
