"""Artifacts under one root, a local folder or ``s3://``: manifest last, every byte verified on reading."""

from mirage_core.store.fingerprint import fingerprint
from mirage_core.store.manifest import FileEntry, Manifest
from mirage_core.store.store import Store

__all__ = ["FileEntry", "Manifest", "Store", "fingerprint"]
