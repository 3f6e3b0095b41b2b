"""A whole night of a masked model: every stage and every page speaks of hidden tokens where it would of bytes."""

import copy
from pathlib import Path

import pytest
import yaml

from flows.nights.nightly import night
from flows.recipe import load_recipe
from flows.terminal.summary import figures
from tasks.core.artifact import Artifact, Reference
from tasks.core.stage import context
from tests.plain import PlainRun
from tests.tiny import TINY


def test_a_night_of_a_masked_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForMaskedLM

    recipe = copy.deepcopy(TINY)
    del recipe["finetune"]  # of masked models tests/tasks/test_finetune.py tells
    recipe["tokenizer"]["kind"] = "wordpiece"
    recipe["pretrain"] |= {"objective": "masked_token", "masking": {"rate": 0.3}, "document_mask": True}
    file = tmp_path / "masked.yaml"
    file.write_text(yaml.safe_dump(recipe))
    monkeypatch.setenv("NIGHTSCHOOL_HOME", str(tmp_path / "home"))
    run = PlainRun(tmp_path / "home")
    token = context.set(run)
    try:
        released = night(load_recipe(file), call=lambda flow, *arguments: flow.fn(*arguments))
    finally:
        context.reset(token)
        run.journal.close()
    assert released is not None
    page = (released.report.path / "report.html").read_text()
    assert "bits per hidden token" in page and "Gaps filled in" in page
    assert "bits per byte" not in page.lower() and "Generated text" not in page
    assert "EuroBertForMaskedLM" in (released.pretrained.export.path / "README.md").read_text()
    AutoModelForMaskedLM.from_pretrained(released.pretrained.export.path)

    def made(stage: str, digest: str) -> Artifact:
        return run.store.get(Reference(stage=stage, digest=digest))

    told = {label: note for label, _, note in figures({o.node: made(o.stage, o.digest) for o in run.outcomes})}
    assert told["bits per hidden token"] == "on held-out documents, before and after pre-training"
    assert "incidents" not in told
