"""Puts a trained model and its tokenizer into a folder that `transformers`, vLLM and others load as any model."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.core.stage import Metrics, StageLog, stage
from tasks.core.store import Artifact
from tasks.tokens.vocabulary import end_of_text_id, padding_id


@stage(version=1, libraries=("safetensors",), modules=("models.hub", "models.saved"))
def export(model: Artifact, tokenizer: Artifact, out: Path, log: StageLog) -> Metrics:
    """Write a Qwen3ForCausalLM folder: config, weights (float32), tokenizer, generation defaults and a model card."""
    from models.hub import save_hub_model
    from models.saved import load_model
    from models.transformer import Transformer

    trained = load_model(model.path)
    assert isinstance(trained, Transformer), "what the stage pretrain wrote"
    save_hub_model(out, trained, end_token=end_of_text_id(tokenizer), pad_token=padding_id(tokenizer))
    for path in sorted(tokenizer.path.glob("*token*.json")):
        shutil.copyfile(path, out / path.name)
    weights = sum(parameter.numel() for parameter in trained.parameters())
    (out / "README.md").write_text(_card(model, tokenizer, weights, trained.config.context_length), encoding="utf-8")
    log.info(f"{weights / 1e6:.1f} M weights as a Qwen3ForCausalLM folder")
    return {"weights": weights, "bytes": sum(path.stat().st_size for path in out.iterdir())}


def _card(model: Artifact, tokenizer: Artifact, weights: int, context_length: int) -> str:
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- nightschool
---

# A language model by Nightschool

A causal transformer of the Qwen3 architecture with {weights:,} weights (float32) and a context of {context_length}
tokens, pre-trained by Nightschool as the artifact `pretrain/{model.digest}` with the tokenizer
`tokenizer/{tokenizer.digest}`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
prompt = tokenizer("The", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=50)[0]))
```
"""
