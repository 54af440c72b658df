"""Documentation of a training set: card, contact sheet, near duplicates, statistics, preview of examples."""
