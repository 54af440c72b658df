"""What a training set holds: its card, contact sheet, near duplicates, statistics and a preview of examples."""
