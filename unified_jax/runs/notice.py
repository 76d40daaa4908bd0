"""A line on stderr that keeps the progress bar intact."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Prints a line above whatever bar is shown."""
    tqdm.write(text, file=sys.stderr)
