"""Which earlier night tonight's training goes on from.

Found in what the store has answered before, not by walking through old nights again: a changed learning rate retrains
nothing old, and the same night run again finds the same trunk and is reused.
"""

from collections.abc import Iterator

from tasks.core.artifact import Artifact, find_damage
from tasks.core.stage import StageCall, context
from tasks.core.store import KeyRecord
from tasks.corpus.snapshot import Snapshot
from tasks.training.pretrain import pretrain
from tasks.training.settings import TRUNK_SETTINGS, PretrainSettings
from tasks.training.starting_model import TRUNK, partitions_of


def find_trunk(tokens: Snapshot, tokenizer: Artifact, settings: PretrainSettings) -> Artifact | None:
    """The pre-training of the longest beginning of this corpus that has a trunk and fits; None for a first night.

    Of several, the one from which tonight has been trained already, else the newest.
    """
    if not settings.continues:
        return None
    found = list(_candidates(tokens, tokenizer, settings))
    if not found:
        return None
    longest = max(partitions for partitions, _ in found)
    newest_first = [artifact for partitions, artifact in found if partitions == longest]
    store = context.get().store
    for artifact in newest_first:
        arguments = {"tokens": tokens, "tokenizer": tokenizer, "previous": artifact, "settings": settings}
        if store.record(StageCall(pretrain, pretrain.name, arguments).request()):
            return artifact
    return newest_first[0]


def _candidates(tokens: Snapshot, tokenizer: Artifact, settings: PretrainSettings) -> Iterator[tuple[int, Artifact]]:
    """Pre-trainings of a beginning of the corpus, with its length in partitions; the newest first."""
    store = context.get().store
    tonight = [artifact.reference for artifact in tokens]
    for record in store.records(pretrain.name):
        earlier = partitions_of(record.request)
        is_beginning = 0 < len(earlier) < len(tonight) and tonight[: len(earlier)] == earlier
        if is_beginning and _fits(record, tokenizer, settings):
            artifact = store.get(record.reference)
            if find_damage(artifact, sampled_bytes=0) is None and (artifact.path / TRUNK).is_dir():
                yield len(earlier), artifact


def _fits(record: KeyRecord, tokenizer: Artifact, settings: PretrainSettings) -> bool:
    """Whether weights and optimizer of that training can go on under tonight's settings."""
    had, wanted = record.request.settings.get("settings", {}), settings.for_key()
    return record.request.inputs.get("tokenizer") == tokenizer.reference and all(
        name in had and had[name] == wanted[name] for name in TRUNK_SETTINGS
    )
