"""Where the bytes of a store lie: a local folder, S3, or any fsspec file system."""
