"""Ablations: what a study is, its cells, how they are trained, and what is said of them."""
