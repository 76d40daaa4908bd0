"""The two ways a command ends badly. Library code raises them; `unified_jax.cli.entry` turns them into a sentence.

`UserError`   exit code 2: the request was wrong (a flag, a recipe, a path, a field). Nothing was lost or compiled.
`RunError`    exit code 1: the request was right and the run failed (a non-finite loss, a full disk).
"""


class UserError(ValueError):
    """What was wrong, what was expected, what to do: one or two sentences."""


class RunError(RuntimeError):
    """What failed, what is safe, how to go on: one or two sentences."""
