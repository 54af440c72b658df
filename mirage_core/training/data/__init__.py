"""Training data: precomputed features of the examples, and the order in which they are read."""
