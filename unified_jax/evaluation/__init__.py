"""Evaluation: readers' scores on the world, distances between feature sets, confidence intervals."""
