"""Plans before a run: memory, time and collectives on hardware that is not there."""
