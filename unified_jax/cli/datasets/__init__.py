"""`unified-jax data`: looking at data sets, checking, building and fetching them."""
