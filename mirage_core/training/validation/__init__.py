"""Validation while training: metrics, early stopping, and the weights with the best score."""
