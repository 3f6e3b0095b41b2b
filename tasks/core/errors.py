"""The two ways in which something ends badly: the user can mend it (exit code 2), or a stage failed (exit code 1).

Either message is one sentence that says what is wrong, where, and what to do.
"""


class UserError(Exception):
    """A mistake in what the user wrote or pointed at; nothing was run because of it. Exit code 2."""


class StageError(Exception):
    """A stage could not do its work on good input (no space, a dead child process, a lost lease). Exit code 1."""
