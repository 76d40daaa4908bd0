"""The two errors of a command. Library code raises them; `unified_jax.cli.entry` prints them.

`UserError`   exit code 2: the request was wrong (a flag, a recipe, a path, a field). Nothing was lost or compiled.
`RunError`    exit code 1: the request was right and the run failed (a non-finite loss, a full disk).
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was wrong, what was expected, what to do: one or two sentences."""


class RunError(RuntimeError):
    """What failed, what is safe, how to continue: one or two sentences."""


def meant(word: str, known: Iterable[str], flag: str = "") -> str:
    """`; did you mean X?` for the closest known word, ignoring case and hyphens; `.` if none is close.

    `flag` precedes X.

    >>> meant("quikstart", ("quickstart", "dit"))
    '; did you mean quickstart?'
    """
    plain = {_plain(one): one for one in known}
    close = difflib.get_close_matches(_plain(word), plain, 1)
    return f"; did you mean {flag}{plain[close[0]]}?" if close else "."


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
