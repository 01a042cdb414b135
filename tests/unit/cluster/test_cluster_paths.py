"""A path is judged by the file system it lies on: memory is refused, a local disk warned of, a shared one is fine."""

from pathlib import Path

import pytest

from distmlp.cluster.paths import Needed, check_paths, file_system
from distmlp.errors import ConfigError

# As in /proc/self/mountinfo; \040 is a space.
MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:26 / /dev/shm rw - tmpfs tmpfs rw
29 27 0:40 / /shared rw shared:1 master:2 - nfs4 server:/export rw
30 29 0:41 / /shared/my\\040scratch rw - lustre mds:/x rw
31 27 0:42 / /work rw - xfs /dev/sda rw
32 27 0:43 / /work rw - beegfs beegfs_nodev rw
not a line of it
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/runs", "ext4"),
        ("/dev/shm/runs", "tmpfs"),
        ("/shared", "nfs4"),
        ("/shared/a/b", "nfs4"),
        ("/shared/my scratch/a", "lustre"),
        ("/sharedX", "ext4"),
        ("/work/a", "beegfs"),
        ("/work/../dev/shm/a", "tmpfs"),
    ],
)
def test_the_innermost_mount_counts_and_of_two_at_one_place_the_later(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/shm")
    assert file_system(tmp_path / "link" / "runs", MOUNTS) == "tmpfs"


def test_memory_is_refused_and_named() -> None:
    with pytest.raises(ConfigError, match=r"^run\.root: /dev/shm/a lies in the memory of this host \(tmpfs\)"):
        check_paths([Needed("run.root", Path("/dev/shm/a"), False)], MOUNTS)


def test_local_disks_are_one_warning_and_shared_file_systems_none() -> None:
    shared = Needed("data.dir", Path("/shared/a"), False)
    assert check_paths([shared], MOUNTS) == ""
    local = [Needed("run.root", Path("/home/a"), False), Needed("data.path", Path("/home/b"), False)]
    warning = check_paths([shared, *local], MOUNTS)
    assert warning.endswith("on ext4: run.root /home/a, data.path /home/b")
    assert "/shared" not in warning


def test_what_is_read_must_exist_and_what_is_made_need_not(tmp_path: Path) -> None:
    missing = tmp_path / "a"
    assert check_paths([Needed("data.dir", missing, False)], "") == ""
    with pytest.raises(ConfigError, match=rf"^data\.path: {missing} does not exist$"):
        check_paths([Needed("data.path", missing, True)], "")


def test_this_host_s_own_mounts_are_read() -> None:
    memory = [
        line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - tmpfs " in line
    ]
    with pytest.raises(ConfigError, match=r"^run\.root: .* lies in the memory of this host \(tmpfs\)"):
        check_paths([Needed("run.root", Path(memory[-1], "a"), False)])
