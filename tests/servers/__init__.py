"""Real servers that tests start for themselves on loopback: Prefect with a worker, S3."""
