"""Where examples come from (the world, TFDS sets, mixtures) and the stateless pipeline that batches them."""
