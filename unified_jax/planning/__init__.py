"""Capacity planning ahead of time, without the hardware: memory, time and collectives."""
