"""The attention half of a block for TPU: Pallas kernels, compiled by Mosaic."""
