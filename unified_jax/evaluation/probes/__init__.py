"""Probes of a trained model: attention maps, loss over time against its Bayes floor, gradient noise."""
