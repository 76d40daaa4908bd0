"""The experiment, the pure train step, and the loop around it: data, checkpoints, metrics, previews."""
