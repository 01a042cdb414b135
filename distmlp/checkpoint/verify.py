"""Holds the files of a checkpoint against what its manifest says of them."""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.storage import Storage

CHUNK_BYTES = 8 * 2**20
MAX_THREADS = 16


def damages(
    storage: Storage, folder: str, files: dict[str, tuple[int, str]], advance: Callable[[int], None]
) -> list[str]:
    """One line for each of ``files`` of ``folder`` that is not what was written: (bytes, SHA-256) by name.

    Files are read side by side. ``advance`` is told of every stretch of bytes read, by one thread at a time.
    """
    lock = threading.Lock()

    def tell(num_bytes: int) -> None:
        with lock:
            advance(num_bytes)

    def damage(name: str) -> str:
        return _damage(storage, f"{folder}/{name}", *files[name], tell)

    with ThreadPoolExecutor(min(MAX_THREADS, 2 * (os.cpu_count() or 1))) as pool:
        return [line for line in pool.map(damage, files) if line]


def _damage(storage: Storage, path: str, size: int, sha: str, advance: Callable[[int], None]) -> str:
    found, where = storage.size(path), storage.where(path)
    if found is None:
        return f"{where} is missing"
    if found != size:
        return f"{where} has {found} bytes, not {size}"
    total = hashlib.sha256()
    with storage.open(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            total.update(chunk)
            advance(len(chunk))
    return "" if total.hexdigest() == sha else f"{where} is damaged: its SHA-256 is not the one in {MANIFEST}"
