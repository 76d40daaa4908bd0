"""The attention half of a block for Hopper GPUs: Pallas kernels, compiled by Mosaic GPU."""
