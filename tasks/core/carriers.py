"""What carries and never decides a byte of an artifact: its code, and what only it reaches, enters no key.

The one list. An entry is a module (with all below it) or a symbol of one, and says in half a line why a change of it
can change no artifact. What draws an artifact (the report, its charts and templates) is none. A module that carries
in one half and decides in the other is two modules.
"""

CARRIERS: dict[str, str] = {
    "tasks.core.batches": "divides work and keeps what is done; the order of items is the stage's",
    "tasks.core.errors": "sentences for a person; an artifact never holds one",
    "tasks.core.run": "reuses, commits and records around a stage",
    "tasks.core.stage": "the contract: calls the function with what it asks for",
    "tasks.core.artifact": "a folder and what its manifest says of it",
    "tasks.core.store": "places folders whole and finds them again",
    "tasks.core.processes": "tells one process from another",
    "tasks.core.versions": "brings an older home forward",
    "tasks.core.journal": "tells what happened",
    "tasks.core.lease": "keeps two processes apart",
    "tasks.tracking.projection": "shows the journal in MLflow",
    "tasks.tracking.sender": "sends the journal to MLflow",
    "tasks.tracking.mlmodel": "describes an artifact to MLflow",
    "tasks.core.kernels": "hands kernels to numba and says where compiled ones lie",
    "tasks.corpus.ingest.summary": "a line of a plan",
    "tasks.corpus.tokenizer.foretell": "a line of a plan",
    "tasks.training.pretrain.foretell": "lines of a plan",
    "tasks.training.pretrain.summary": "a line of a plan",
    "tasks.training.supervise": "starts the training process and starts it again",
    "tasks.training.torchrun": "the command line of the training process; its bits are kept by its first start",
    "tasks.training.progress_log": "passes a training's figures on to the log",
    "tasks.training.hanging": "tells a training that hangs",
    "tasks.training.resources": "samples memory and processors",
    "models.process.work_folder": "keeps two processes off one folder, and the machine's choices for a resume",
    "models.files": "places files whole",
    "models.fit.__main__": "begins and ends the training process",
    "models.fit.main": "begins and ends the training process",
    "models.fit._explain": "a sentence for a person",
    "models.fit._is_above": "tells whether the parent lives",
    "models.machine.flops.peak_flops": "a figure of utilisation",
    "models.process.heartbeat": "a sign of life",
    "models.machine.out_of_memory": "advice for a person",
    "models.named": "imports what a table names; the tables' entries are followed",
    "models.process.outcome": "tells the parent how a training ended",
    "models.process.progress": "hands a step's figures on unchanged",
}

SILENT_LIBRARIES: dict[str, str] = {
    "blake3": "a published hash: the same for every release",
    "fsspec": "gives the bytes that lie there",
    "mlflow": "shows",
    "prefect": "schedules",
    "psutil": "looks at processes",
    "pydantic": "checks settings; what they say enters the key as plain JSON",
    "pydantic_core": "the same",
    "rich": "draws on a terminal",
    "typer": "reads the command line",
}
"""Libraries (by import name) that the code of stages imports and whose release shows in no artifact."""
