"""Noising processes: schedules, Gaussian and flow paths, targets, the variational bound. Pure maths, no networks."""
