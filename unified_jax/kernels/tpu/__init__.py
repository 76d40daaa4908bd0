"""The attention branch of a block for TPU: Pallas kernels, compiled by Mosaic."""
