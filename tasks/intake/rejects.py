"""What a stage had to refuse: one table of places and reasons, and the limit past which it is no accident any more."""

import pyarrow as pa

from tasks.core.errors import StageError, UserError

REJECTS = pa.schema([("path", pa.string()), ("row", pa.int64()), ("reason", pa.string())])
"""Where a file or row stood (`path` as in document ids, `row` in that file or null for all of it), and what it
lacked."""


def judge_rejects(accepted: int, rejects: pa.Table, limit: float, unit: str) -> None:
    """Stop if too much was refused.

    Args:
        accepted: how many were not.
        limit: the largest share that may be.
        unit: what they are, in the plural.

    Raises:
        StageError: more than `limit` of all were refused.
        UserError: there is nothing at all.
    """
    total = accepted + rejects.num_rows
    if rejects.num_rows > limit * total:
        first = rejects.slice(0, 1).to_pylist()[0]
        place = first["path"] if first["row"] is None else f"{first['path']} row {first['row']}"
        raise StageError(
            f"{rejects.num_rows} of {total} {unit} could not be read, the first being {place} ({first['reason']}); "
            f"mend the source or raise `reject_limit` above {limit:g}."
        )
    if not accepted:
        raise UserError(f"The sources hold no {unit}: check the `sources` of the recipe.")
