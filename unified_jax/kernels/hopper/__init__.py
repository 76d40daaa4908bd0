"""The attention branch of a block for Hopper GPUs: Pallas kernels, compiled by Mosaic GPU."""
