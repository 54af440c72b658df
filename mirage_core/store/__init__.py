"""The artifact store in a local folder or on ``s3://``: manifest last, every byte verified when it is read."""

from mirage_core.store.digests import fingerprint
from mirage_core.store.garbage import Garbage
from mirage_core.store.manifest import FileEntry, Manifest
from mirage_core.store.pointers import Pointer, PointerTarget, checked_pointer
from mirage_core.store.store import Store

__all__ = ["FileEntry", "Garbage", "Manifest", "Pointer", "PointerTarget", "Store", "checked_pointer", "fingerprint"]
