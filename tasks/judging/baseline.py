"""The bar that a fine-tuned model must clear: TF-IDF and logistic regression on the same labels.

It takes a second and is hard to beat where words give the class away, so a fine-tune is reported beside it.
"""

import json
import math
from pathlib import Path

import polars as pl
import pyarrow as pa
from pydantic import Field

from models.settings import Settings
from tasks.core.artifact import Artifact
from tasks.core.stage import Metrics, StageLog, stage
from tasks.corpus.documents import write_rows
from tasks.corpus.labels import choose_labels

Z_95 = 1.959963984540054
PREDICTIONS = pa.schema([("doc_id", pa.string()), ("label", pa.int32()), ("predicted", pa.int32())])


class BaselineSettings(Settings):
    """Which labels it may see: the same fields as the fine-tune's."""

    labels: int = Field(default=240, ge=2, le=10_000_000)
    """Labelled examples to learn from."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Chooses them, balanced over the classes."""


@stage(version=1)
def baseline(examples: Artifact, settings: BaselineSettings, out: Path, log: StageLog) -> Metrics:
    """Write predictions.parquet (doc_id, label, predicted) on the test examples; metrics hold the accuracy.

    Words and pairs of words, sublinear counts, L2 penalty: scikit-learn's defaults for texts, none of them tuned.

    Raises UserError if the pool has fewer examples than labels are asked for.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = (_read(examples.path / f"{split}.arrow") for split in ("train", "test"))
    chosen = train[choose_labels(train["label"].to_numpy(), settings.labels, settings.seed)]
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=1000)
    )
    model.fit(chosen["text"].to_list(), chosen["label"].to_numpy())
    predicted = model.predict(test["text"].to_list())
    frame = test.select("doc_id", "label").with_columns(predicted=pl.Series(predicted, dtype=pl.Int32))
    write_rows(frame, PREDICTIONS, out / "predictions.parquet")
    right = int((frame["label"] == frame["predicted"]).sum())
    low, high = wilson(right, frame.height)
    classes = len(json.loads((examples.path / "labels.json").read_text(encoding="utf-8")))
    log.info(f"{right / frame.height:.1%} of {frame.height} right after {settings.labels} labels of {classes} classes")
    return {
        "accuracy": right / frame.height,
        "accuracy_low": low,
        "accuracy_high": high,
        "labels": settings.labels,
        "test": frame.height,
    }


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a share of `right` in `total` > 0 (Wilson 1927): sound near 0 and 1, too."""
    share, z2 = right / total, Z_95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _read(path: Path) -> pl.DataFrame:
    with pa.memory_map(str(path)) as source:
        return pl.DataFrame(pa.ipc.open_file(source).read_all().select(["doc_id", "text", "label"]))
