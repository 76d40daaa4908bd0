"""Third-party weights <-> our parameter trees, plain nested dicts of NumPy arrays; one file per family."""
