"""Checkpoints in an object store, by any URL that fsspec knows, such as `s3://bucket/runs/a/checkpoints` or `gs://…`.

An object store renames nothing: what is written lies under its final name at once, and the manifest, written last,
makes a checkpoint of it. What takes it away begins with the manifest. Credentials come from the environment
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS and so on), never from the URL.
"""

import io
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import unquote

from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.storage import LocalStorage, Storage
from distmlp.errors import ConfigError

PART_BYTES = 64 * 2**20  # of an upload; S3 takes 10,000 of them
READ_AHEAD_BYTES = 2**20
NUM_TRIES = 6
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 15.0
PATIENCE_SECONDS = 120.0  # no new try after this
LASTING = (
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
)

Result = TypeVar("Result")


def open_storage(place: str | Path) -> Storage:
    """The storage at ``place``: a path, or a URL.

    Raises:
        ConfigError: nothing can read such a URL, or it holds a password.
    """
    address = re.match(r"([a-z][a-z0-9+.-]+):/+(.*)", str(place))  # a Path makes one slash of two
    if address is None:
        return LocalStorage(Path(place))
    kind, rest = address.groups()
    return LocalStorage(Path("/", unquote(rest))) if kind in ("file", "local") else ObjectStorage(f"{kind}://{rest}")


class ObjectStorage:
    """Objects below the address ``url``. What fails and may pass is tried again, a bounded number of times."""

    appears_whole = False

    def __init__(self, url: str) -> None:
        self.url = re.sub(r"//[^/]*@", "//", url).split("?")[0].rstrip("/")
        if re.search(r"//[^/]*:[^/]*@", url):
            raise ConfigError(f"{self.url}: its address holds a password; set it in the environment instead")
        self.fs, self.root = _file_system(url, self.url)

    def where(self, name: str = "") -> str:
        return f"{self.url}/{name}".rstrip("/")

    def working_folder(self, name: str, attempt: str) -> str:
        return name

    def publish(self, working: str, name: str) -> None:
        assert working == name

    def names(self, folder: str = "") -> list[str]:
        path = self._path(folder)
        try:
            found = self._try(folder, self.fs.ls, path, detail=False)
        except FileNotFoundError:
            return []
        below = [str(entry).rstrip("/") for entry in found]
        return sorted(entry.rpartition("/")[2] for entry in below if entry.strip("/") != path.strip("/"))

    def size(self, name: str) -> int | None:
        path = self._path(name)
        try:
            info = self._try(name, self.fs.info, path)
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def open(self, name: str) -> BinaryIO:
        size, path = self.size(name), self._path(name)
        if size is None:
            raise FileNotFoundError(f"{self.where(name)} is missing")

        def fetch(start: int, stop: int) -> bytes:
            return cast(bytes, self._try(name, self.fs.cat_file, path, start=start, end=stop))

        return io.BufferedReader(_Ranges(fetch, size), READ_AHEAD_BYTES)

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        replay = _Replay(chunks)
        self._try(name, self._upload, self._path(name), replay)

    def write_at_once(self, name: str, text: bytes) -> None:
        self._try(name, self.fs.pipe_file, self._path(name), text)

    def remove(self, name: str) -> None:
        self._try(name, self._remove, self._path(name))

    def set_aside(self, name: str, folder: str) -> str:
        above = self.root.rpartition("/")[0] or self.root
        target, number = f"{above}/{folder}/{name}", 1
        while self._try(name, self.fs.exists, target):
            number += 1
            target = f"{above}/{folder}/{name}-{number}"
        source = self._path(name)
        for path in self._files(name):
            self._try(name, self.fs.cp_file, path, target + path[len(source) :])
        self.remove(name)
        return f"{self.url.removesuffix(self.root.strip('/'))}{target.strip('/')}"

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _files(self, name: str) -> list[str]:
        return [str(path) for path in self._try(name, self.fs.find, self._path(name))]

    def _remove(self, path: str) -> None:
        paths = [str(found) for found in self.fs.find(path)]
        manifests = [found for found in paths if found.endswith(f"/{MANIFEST}")]
        for some in (manifests, [found for found in paths if found not in manifests]):
            with suppress(FileNotFoundError):  # somebody else was faster
                if some:
                    self.fs.rm(some)

    def _upload(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        file = self.fs.open(path, "wb", block_size=PART_BYTES)
        try:
            for chunk in chunks:
                file.write(chunk)
            file.close()
        except BaseException:
            with suppress(Exception):
                file.discard()
            with suppress(AttributeError):
                file.closed = True  # or its end would upload what there is of it
            raise

    def _try(self, name: str, action: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Does ``action``, again where it fails and may do better. The clients' own errors become OSErrors."""
        self.fs.invalidate_cache()  # others write here too
        started, pause = time.monotonic(), FIRST_PAUSE_SECONDS
        for number in range(1, NUM_TRIES + 1):
            try:
                return action(*args, **kwargs)
            except LASTING as error:
                raise _as_os_error(error, self.where(name)) from None
            except Exception as error:
                if number == NUM_TRIES or time.monotonic() - started > PATIENCE_SECONDS:
                    raise _as_os_error(error, f"{self.where(name)} after {number} tries") from None
            time.sleep(pause * random.uniform(0.5, 1.0))  # ranks that failed together come again one by one
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        raise AssertionError


class _Ranges(io.RawIOBase):
    """An object as a seekable file: each read fetches a range of it."""

    def __init__(self, fetch: Callable[[int, int], bytes], num_bytes: int) -> None:
        self.fetch = fetch
        self.num_bytes = num_bytes
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.num_bytes}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self.position + len(view), self.num_bytes)
        if stop <= self.position:
            return 0
        found = self.fetch(self.position, stop)
        view[: len(found)] = found
        self.position += len(found)
        return len(found)

    def readall(self) -> bytes:
        start, self.position = self.position, self.num_bytes
        return self.fetch(start, self.num_bytes) if start < self.num_bytes else b""  # its base fetches 8 KB at a time


class _Replay:
    """Chunks that can be gone through again after an upload that was cut; they are views of memory that stays."""

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self.rest = iter(chunks)
        self.seen: list[bytes | memoryview] = []

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield from list(self.seen)
        for chunk in self.rest:
            self.seen.append(chunk)
            yield chunk


def _file_system(url: str, shown: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise ConfigError(f"{shown} needs a package: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{shown}: {error}") from None
    return fs, str(root).rstrip("/")


def _as_os_error(error: Exception, where: str) -> OSError:
    kinds: list[type[OSError]] = [FileNotFoundError, PermissionError]
    kind = next((kind for kind in kinds if isinstance(error, kind)), OSError)
    return kind(f"{where}: {getattr(error, 'strerror', None) or error or type(error).__name__}")
