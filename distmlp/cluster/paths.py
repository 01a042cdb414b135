"""Where paths lie: a compute node is another machine, and must see what a job reads and writes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distmlp.errors import ConfigError

IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
LOCAL_DISKS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay")
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Needed:
    """A path that the job needs.

    Args:
        what: the key or word that names it, for messages.
        path: where.
        must_exist: whether it is read, and not made.
    """

    what: str
    path: Path
    must_exist: bool


def check_paths(needed: Iterable[Needed], mounts: str | None = None) -> str:
    """A warning about paths on a disk of this host, which nodes may see or not; empty where there are none.

    Args:
        needed: the paths.
        mounts: text of ``/proc/self/mountinfo``; None: this host's.

    Raises:
        ConfigError: a path is missing, or lies in the memory of this host.
    """
    if mounts is None:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape") if MOUNTS.exists() else ""
    local: dict[str, list[str]] = {}
    for one in needed:
        path = one.path.absolute()
        if one.must_exist and not path.exists():
            raise ConfigError(f"{one.what}: {path} does not exist")
        kind = file_system(path, mounts)
        if kind in IN_MEMORY:
            raise ConfigError(
                f"{one.what}: {path} lies in the memory of this host ({kind}), which compute nodes do not see: use a "
                "shared file system"
            )
        if kind in LOCAL_DISKS:
            local.setdefault(kind, []).append(f"{one.what} {path}")
    if not local:
        return ""
    where = "; ".join(f"on {kind}: {', '.join(dict.fromkeys(paths))}" for kind, paths in local.items())
    return f"compute nodes must see these under the same paths, and a local disk may be this host's alone: {where}"


def file_system(path: Path, mounts: str) -> str:
    """Kind of the file system that ``path`` lies on, or would: links are followed. Empty where nobody knows.

    The format of ``mounts`` is in proc_pid_mountinfo(5).
    """
    place = path.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(_unescaped(fields[4]))
        if place.is_relative_to(point) and len(point.parts) >= best:  # the later mount covers the one before
            best, kind = len(point.parts), after.split(" ")[0]
    return kind


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
