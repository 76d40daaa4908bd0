"""Samplers: functions over a denoiser, `(denoise, process, x, grid, keys) -> x`, each one scan over a grid of times."""
