"""Published weights of autoencoders: their names and settings, and ours."""
