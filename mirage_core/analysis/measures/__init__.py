"""The measures of a diagnosis, one file a measure; registry.py lists them by name."""
