"""The `MLmodel` file of an exported model, written by hand, so that MLflow's users can load it.

`mlflow.transformers.save_model` fails on a local folder with transformers 5 (mlflow 3.17.2: `'str' object has no
attribute '__name__'`) and would import torch and transformers into the process that runs the flow.
"""

import json
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel


def describe_model(folder: Path, into: Path, logged: "LoggedModel", time_ms: int) -> bool:
    """Write `MLmodel` and its requirements for a Hugging Face folder, so that `mlflow.transformers.load_model` and
    `mlflow.pyfunc.load_model` open it; False for a folder of another kind."""
    config = json.loads((folder / "config.json").read_bytes()) if (folder / "config.json").exists() else {}
    architecture = next(iter(config.get("architectures") or []), "")
    task = {"ForCausalLM": "text-generation", "ForSequenceClassification": "text-classification"}.get(
        "For" + architecture.rpartition("For")[2]
    )
    if task is None or not tokenizer_files(folder):
        return False
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    text = Schema([ColSpec("string")])
    model = Model(run_id=logged.source_run_id, model_id=logged.model_id, signature=ModelSignature(text, text))
    model.utc_time_created = str(time_ms)
    model.add_flavor(
        "transformers",
        transformers_version=metadata.version("transformers"),
        task=task,
        instance_type="TextGenerationPipeline" if task == "text-generation" else "TextClassificationPipeline",
        pipeline_model_type=architecture,
        source_model_name=logged.name,
        model_binary="model",
        torch_dtype=f"torch.{config.get('dtype', 'float32')}",
        components=["tokenizer"],
        tokenizer_type="AutoTokenizer",
        code=None,
    )
    model.add_flavor(
        "python_function",
        loader_module="mlflow.transformers",
        python_version=python_version(),
        env={"virtualenv": "python_env.yaml"},
    )
    model.save(str(into / "MLmodel"))
    pinned = [f"{name}=={metadata.version(name)}" for name in ("mlflow", "torch", "transformers")]
    (into / "requirements.txt").write_text("\n".join(pinned) + "\n")
    environment = {"python": python_version(), "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    (into / "python_env.yaml").write_text(yaml.safe_dump(environment))
    return True


def tokenizer_files(folder: Path) -> list[Path]:
    """What a tokenizer consists of, as far as the folder holds it."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    return [folder / name for name in names if (folder / name).exists()]
