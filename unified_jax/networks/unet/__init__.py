"""U-Nets: one network of levels, and the families that are choices of its fields."""
