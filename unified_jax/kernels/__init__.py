"""The attention branch of a block in three parts: the specification, the XLA path, and the choice between paths."""
