"""A recipe that does everything in seconds, and a way to run the real command line on it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TINY: dict[str, Any] = {
    "name": "tiny",
    "ingest": {"sources": [{"kind": "python-docs", "packages": ["rich", "fsspec", "jinja2", "yaml", "pydantic"]}]},
    "tokenizer": {"vocabulary": 512, "sample_megabytes": 1, "heldout": 0.2},
    "pretrain": {
        "layers": 1,
        "width": 32,
        "heads": 2,
        "kv_heads": 1,
        "context_length": 64,
        "batch": 8,
        "tokens": 40 * 8 * 64,
        "checkpoint_every": 5,
    },
    "evaluate": {"documents": 50},
    "finetune": {
        "examples": {"classes": 3, "pool": 60, "test": 30, "context_length": 64},
        "training": {"labels": 30, "epochs": 2},
    },
}


SERVERS = (
    *("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
)
"""What says which servers are used, and as whom."""


@dataclass(frozen=True)
class Commands:
    """The command line over one home folder and one recipe."""

    home: Path
    recipe: Path

    def environment(self) -> dict[str, str]:
        """This process's, less the servers that other tests in it may use."""
        kept = {name: value for name, value in os.environ.items() if name not in SERVERS}
        return {**kept, "NIGHTSCHOOL_HOME": str(self.home)}

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "flows.cli", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment() | variables, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments, **variables)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def change(self, path: str, value: object) -> None:
        """Set `a.b.c` in the recipe."""
        recipe = yaml.safe_load(self.recipe.read_text())
        *above, last = path.split(".")
        place = recipe
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
        self.recipe.write_text(yaml.safe_dump(recipe))
