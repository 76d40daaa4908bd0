"""What a misspelt word most likely meant."""

import difflib
from collections.abc import Iterable


def meant(word: str, known: Iterable[str], flag: str = "") -> str:
    """`; did you mean X?` for the known word that is closest, whatever its case and hyphens; `.` where none is close.

    `flag` stands before X.
    """
    plain = {_plain(one): one for one in known}
    close = difflib.get_close_matches(_plain(word), plain, 1)
    return f"; did you mean {flag}{plain[close[0]]}?" if close else "."


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
