"""What a model is worth: readers' scores on the world, distances between sets of features, intervals."""
