"""The experiment and the pure train step: optimizers, EMA, balancing, strict reduction."""
