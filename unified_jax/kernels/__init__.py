"""The attention half of a block in three parts: the specification, the XLA path, and the choice between paths."""
