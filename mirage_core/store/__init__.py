"""Artifacts under one root, a local folder or ``s3://``: manifest last, every byte verified on reading."""

from mirage_core.store.digests import fingerprint
from mirage_core.store.garbage import Garbage
from mirage_core.store.manifest import FileEntry, Manifest
from mirage_core.store.pointers import Pointed, Pointer, checked_pointer
from mirage_core.store.store import Store

__all__ = ["FileEntry", "Garbage", "Manifest", "Pointed", "Pointer", "Store", "checked_pointer", "fingerprint"]
