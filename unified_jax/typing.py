"""Names for the arrays and trees that pass between the packages.

Axes in shapes: `b` batch, `n` tokens, `d` features, `f h w` frames/rows/columns, `c` channels, `p` patch features,
`a` position axes, `k` rows of a table.
"""

from typing import Any

from jaxtyping import Array, Float, Int, Key

Keys = Key[Array, "b"]
"""One random key per example."""

Times = Float[Array, "b"] | Int[Array, "b"]
"""One time per example: float in [0, 1] (0 is data, 1 is noise) or the integer index of a discrete process."""

Params = dict[str, Any]
"""A plain nested dict of arrays."""

Batch = dict[str, Any]
"""Arrays by field name, each `[b, ...]`, with `slot` int32 `[b]`: the example's position in the global batch."""
