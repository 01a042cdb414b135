"""Fetches a file with a known checksum once: several mirrors, a progress bar, and a partial file that is continued.

pooch downloads and hashes; what it does not do is continue a file that was cut off, or share a folder between ranks
that start together, and both happen on clusters. So bytes are gathered in ``<name>.part`` under a lock and renamed
when the checksum is right: a file under its own name is always whole.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from distmlp.errors import ConfigError

ATTEMPTS_PER_MIRROR = 2  # the second continues what was cut off, or starts over after a wrong checksum
_CHUNK_BYTES = 1 << 16
_OK, _RANGE_NOT_SATISFIABLE = 200, 416


def fetch(file_name: str, *, mirrors: Sequence[str], md5: str, folder: Path) -> Path:
    """The path of ``folder/file_name``, downloaded unless it is there with the right checksum.

    Args:
        file_name: name on the mirrors and in the folder.
        mirrors: base URLs, tried in order.
        md5: hexadecimal MD5 of the whole file.
        folder: created when missing; safe to share between processes.

    Raises:
        ConfigError: no mirror gave the file, or the folder cannot be written.
    """
    from filelock import FileLock

    target, part = folder / file_name, folder / f"{file_name}.part"
    if _is_whole(target, md5):  # also where the folder is shared and read-only
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{file_name}.lock"):
            if not _is_whole(target, md5):
                _fill(part, file_name, mirrors, md5)
                part.replace(target)
    except OSError as error:
        raise ConfigError(
            f"{folder}: {file_name} cannot be stored there: {error.strerror or error}; "
            "put the files in a folder of your own and give it with data.dir="
        ) from error
    return target


def _is_whole(path: Path, md5: str) -> bool:
    import pooch

    return path.is_file() and bool(pooch.file_hash(str(path), alg="md5") == md5)


def _fill(part: Path, file_name: str, mirrors: Sequence[str], md5: str) -> None:
    """Leave the whole file in ``part``, or raise ConfigError with the last mirror's reason."""
    if _is_whole(part, md5):  # stopped between the last byte and the rename
        return
    reason = "no mirror is known"
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file_name}"
        for _ in range(ATTEMPTS_PER_MIRROR):
            failure, worth_another = _append(part, url)
            if failure is None and _is_whole(part, md5):
                return
            if failure is None:
                failure, worth_another = f"{urlsplit(url).netloc} gave a file whose MD5 is not {md5}", True
                part.unlink()
            reason = failure
            if not worth_another:
                break
    hosts = ", ".join(urlsplit(mirror).netloc for mirror in mirrors)
    raise ConfigError(
        f"{file_name} could not be fetched from {hosts} (last reason: {reason}); "
        "without a network, put the files in a folder and give it with data.dir="
    )


def _append(part: Path, url: str) -> tuple[str | None, bool]:
    """Ask ``url`` for what ``part`` lacks: the failure, if any, and whether the same mirror is worth asking again."""
    import pooch
    import requests

    offset = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # a server that unpacks .gz on the way would break checksum and Range
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with part.open("ab") as file, tqdm(desc=part.stem, total=1, unit="B", unit_scale=True, disable=None) as bar:
        whole_file_came = functools.partial(_drop_when_range_ignored, file)
        download = pooch.HTTPDownloader(
            progressbar=bar, chunk_size=_CHUNK_BYTES, headers=headers, hooks={"response": whole_file_came}
        )
        try:
            download(url, file, None)
        except requests.HTTPError as error:
            part_is_too_long = getattr(error.response, "status_code", None) == _RANGE_NOT_SATISFIABLE
            if part_is_too_long:
                file.truncate(0)
            return f"{urlsplit(url).netloc}: {error}", part_is_too_long
        except requests.RequestException as error:
            # Bytes came before the line broke, so the mirror is alive and can continue.
            return f"{urlsplit(url).netloc}: {_root_cause(error)}", file.tell() > offset
    return None, False


def _drop_when_range_ignored(file: IO[bytes], response: Any, **_: Any) -> None:
    """Called with the headers, before the first byte is written: 200 instead of 206 means the file from its start."""
    if response.status_code == _OK:
        file.truncate(0)


def _root_cause(error: BaseException) -> str:
    """The innermost reason ("Connection refused"), without the layers that requests and urllib3 wrap around it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__
