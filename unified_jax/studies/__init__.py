"""Ablation studies: their files, their cells, training, and reports."""
