"""A machine of its own inside this one: a process with its own network, host name, processes, mounts and /dev/shm.

It has the files of this machine, so a repository and a virtual environment are where they are here. Its first process
lives until the pipe from here closes, by `stop` or because this process ended, however it ended; the kernel then ends
everything in it and takes its network away. Nothing of it is ever seen in this machine's network or mounts.

Namespaces need root. Without root, `sudo -n` makes them, and `run` works in them as the user who calls it.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid")
AS_ROOT = () if os.geteuid() == 0 else ("sudo", "-n")
PATH = os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin"  # where daemons and ip are; not in every user's PATH
FIRST_PROCESS = """
hostname "$1" && mount --bind "$2" /etc/hosts && mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo up
read -r _
"""


def as_root(*words: str) -> str:
    """What a command prints that runs here, as root."""
    ran = subprocess.run([*AS_ROOT, "env", f"PATH={PATH}", *words], capture_output=True, text=True, timeout=60)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(words)}: {ran.stderr.strip()}")
    return ran.stdout


def why_no_machines() -> str:
    """Why this machine cannot hold others; empty where it can."""
    make = ("unshare", *NAMESPACES, "--fork", "--mount-proc", "true")
    try:
        as_root(*make)
    except (OSError, RuntimeError) as error:
        return f"needs namespaces, as root or by `sudo -n`: {error}"
    return ""


class Machine:
    """Starts a machine.

    Args:
        name: its host name.
        hosts: its /etc/hosts.
    """

    def __init__(self, name: str, hosts: Path) -> None:
        self.name = name
        make = ("unshare", *NAMESPACES, "--fork", "--mount-proc", "--kill-child")
        self._process = subprocess.Popen(
            [*AS_ROOT, "env", f"PATH={PATH}", *make, "bash", "-c", FIRST_PROCESS, name, name, str(hosts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the tests alone, which then stop the machine
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "up\n":
            self.stop()
            raise RuntimeError(f"machine {name} does not start")
        self.pid = psutil.Process(self._process.pid).children(recursive=True)[-1].pid

    def stop(self) -> None:
        """Ends everything in it at once, as a power cut does."""
        self._process.communicate()

    def run(
        self,
        *words: str,
        root: bool = False,
        environment: Mapping[str, str] | None = None,
        folder: Path = Path("/"),
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in it, with ``environment`` and no other variables."""
        user = () if root else (f"--setuid={os.getuid()}", f"--setgid={os.getgid()}")
        enter = ("nsenter", f"--target={self.pid}", *NAMESPACES, f"--wd={folder}", *user)
        variables = [f"{name}={value}" for name, value in ({"PATH": PATH} | dict(environment or {})).items()]
        command = [*AS_ROOT, *enter, "env", "-i", *variables, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def connect(switch: Machine, node: Machine, address: str) -> None:
    """A cable from the bridge ``br0`` of ``switch``, where its end has the node's name, to ``eth0`` of ``node``."""
    ends = (node.name, "netns", str(switch.pid)), ("name", "eth0", "netns", str(node.pid))
    as_root("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
    for machine, change in (
        (switch, ("link", "set", node.name, "master", "br0", "up")),
        (node, ("address", "add", address, "broadcast", "+", "dev", "eth0")),
        (node, ("link", "set", "eth0", "up")),
    ):
        as_root("nsenter", f"--target={machine.pid}", "--net", "ip", *change)
