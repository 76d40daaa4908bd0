"""Other people's weights <-> our parameter trees, plain nested dicts of NumPy arrays; one file per family."""
