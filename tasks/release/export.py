"""Puts a trained model and its tokenizer into a folder that `transformers`, vLLM and others load as any model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from models.named import ByName
from tasks.core.artifact import Artifact
from tasks.core.stage import Metrics, StageLog, stage
from tasks.tokens.vocabulary import end_of_text_id, mask_id, padding_id
from tasks.training.starting_model import StartingModel

if TYPE_CHECKING:
    from models.text.foreign import Model

PRODUCTS = ("losses.parquet", "incidents.json", "metrics.json", "manifest.json", "run.json")
"""What a pre-training writes beside the model."""


@stage(version=1)
def export(model: Artifact, tokenizer: Artifact, start: StartingModel, out: Path, log: StageLog) -> Metrics:
    """Write a model's folder: config, weights (float32), tokenizer, generation defaults and a model card.

    A causal model is a Qwen3ForCausalLM, a bidirectional one a EuroBertForMaskedLM; one that came from elsewhere keeps
    its architecture.
    """
    from models.text.model_folder import load_model

    trained = load_model(model.path)
    WRITTEN[start.family](out, trained, model, tokenizer)
    for path in sorted(tokenizer.path.glob("*token*.json")):
        shutil.copyfile(path, out / path.name)
    weights = sum(parameter.numel() for parameter in trained.parameters())
    architecture = json.loads((out / "config.json").read_bytes())["architectures"][0]
    causal = trained.config.attention == "causal"
    what = f"{architecture} with {weights:,} weights (float32) and a context of {trained.config.context_length}"
    card = _card(model, tokenizer, what, causal)
    (out / "README.md").write_text(card, encoding="utf-8")
    log.info(f"{weights / 1e6:.1f} M weights as a {architecture} folder")
    return {"weights": weights, "bytes": sum(path.stat().st_size for path in out.iterdir())}


def _write_ours(out: Path, trained: Model, model: Artifact, tokenizer: Artifact) -> None:
    from models.text.convert import save_hub_model
    from models.text.transformer import Transformer

    assert isinstance(trained, Transformer)
    mask = mask_id(tokenizer) if trained.config.attention == "bidirectional" else None
    save_hub_model(out, trained, end_token=end_of_text_id(tokenizer), pad_token=padding_id(tokenizer), mask_token=mask)


def _copy_theirs(out: Path, trained: Model, model: Artifact, tokenizer: Artifact) -> None:
    for path in sorted(path for path in model.path.iterdir() if path.is_file() and path.name not in PRODUCTS):
        shutil.copyfile(path, out / path.name)


WRITTEN: ByName[Callable[[Path, Model, Artifact, Artifact], None]] = {
    "transformer": _write_ours,
    "foreign": _copy_theirs,
}
"""What writes the folder, by family."""


def _card(model: Artifact, tokenizer: Artifact, what: str, causal: bool) -> str:
    return f"""---
library_name: transformers
pipeline_tag: {"text-generation" if causal else "fill-mask"}
tags:
- nightschool
---

# A language model by Nightschool

{"A" if causal else "A masked"} {what} tokens, pre-trained by Nightschool as the artifact
`pretrain/{model.digest}` with the tokenizer `tokenizer/{tokenizer.digest}`.

```python
{_EXAMPLE if causal else _MASKED_EXAMPLE}
```
"""


_EXAMPLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
prompt = tokenizer("The", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=50)[0]))"""

_MASKED_EXAMPLE = """from transformers import pipeline

fill = pipeline("fill-mask", "path/to/this/folder")
print(fill(f"Returns the {fill.tokenizer.mask_token} of the list."))"""
