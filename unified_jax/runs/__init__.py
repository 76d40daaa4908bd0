"""The life of a run: start, loop, checkpoints, metrics, resume, evaluation, export."""
