"""Readers of data sets: JSONL rows, rows of hub data sets, image sources; and content digests."""
