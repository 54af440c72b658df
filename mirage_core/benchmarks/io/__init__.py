"""Reading and writing of data sets: JSONL rows, rows as hubs publish them, image sources, content digests."""
