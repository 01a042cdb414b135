"""A real SLURM cluster on this machine, for tests: a login host with munged and slurmctld, and nodes with slurmd.

Each is a `Machine` with its own network, so clusters beside each other do not meet, though they have the same names,
addresses and ports. Nothing stays behind but configuration and logs in the cluster's folder.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from machine import PATH, Machine, as_root, connect, why_no_machines

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "unshare", "nsenter", "ip")
ENDED = "COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL PREEMPTED DEADLINE OUT_OF_MEMORY BOOT_FAIL".split()
SECONDS_BETWEEN_LOOKS = 0.5  # each asks SLURM, which costs the cores that the jobs run on
NUM_CPUS, MEMORY_MB, NUM_GPUS = 4, 8000, 4
LOGIN = "login"
IN_SERVICE = ("idle", "mixed", "allocated", "completing")

# `urgent` preempts `main`. cred_expire is also how long a requeued job waits at least; SlurmdTimeout is how long a node
# may be silent before its jobs are taken from it. Accounting, cgroups and binding to cores are off: tests need none.
CONFIGURATION = """
ClusterName=test
SlurmctldHost=login(10.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/private/munge.sock,cred_expire=5
StateSaveLocation={folder}/private/state
SlurmdSpoolDir={folder}/private/spool-%n
SlurmctldPidFile={folder}/private/slurmctld.pid
SlurmdPidFile={folder}/private/slurmd-%n.pid
SlurmctldLogFile={folder}/login.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=5,sched_min_interval=0,bf_interval=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=1
SlurmdTimeout=10
MessageTimeout=5
TCPTimeout=2
KillWait=10
MinJobAge=3600
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def why_no_cluster() -> str:
    """Why there can be no cluster on this machine; empty where there can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    return f"needs SLURM and iproute2; not found: {', '.join(missing)}" if missing else why_no_machines()


def wait_until(condition: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    """Asks again and again until ``condition`` holds; fails with ``what`` when it does not within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what()}"
        time.sleep(SECONDS_BETWEEN_LOOKS)


class Cluster:
    """Starts a cluster whose nodes are idle: ``node1``, ``node2``, … with four CPUs, 8 GB and four GPUs by name only.

    Args:
        folder: for its files.
        num_nodes: how many nodes.
        settings: further lines of slurm.conf, such as ``RequeueExit=3``; they win over those above.
    """

    def __init__(self, folder: Path, num_nodes: int, *settings: str) -> None:
        self.folder = folder
        self._private = folder / "private"  # files of the daemons, which belong to root
        self.nodes = tuple(f"node{number}" for number in range(1, num_nodes + 1))
        self._addresses = {LOGIN: "10.0.0.1"} | {node: f"10.0.0.{10 + int(node[4:])}" for node in self.nodes}
        self._machines: dict[str, Machine] = {}
        self._write_files(settings)
        try:
            self._start_login()
            for node in self.nodes:
                self._start_node(node)
            self._wait_until_idle()
        except BaseException:
            self.down()
            raise

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: object) -> None:
        self.down()

    def down(self) -> None:
        """Stops it. Its logs stay."""
        for name in (*self.nodes, LOGIN):
            self._stop(name)
        as_root("rm", "-rf", str(self._private))

    def run(
        self,
        *words: str,
        on: str = LOGIN,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the login host or on a node as a user there would, and returns how it ended."""
        variables = self._environment | dict(environment or {})
        return self._machines[on].run(*words, environment=variables, folder=folder or self.folder, timeout=timeout)

    def output(self, *words: str, on: str = LOGIN, folder: Path | None = None, timeout: float = 120) -> str:
        """What a command prints, which must succeed."""
        ran = self.run(*words, on=on, folder=folder, timeout=timeout)
        assert ran.returncode == 0, f"{' '.join(words)} ended with {ran.returncode}: {ran.stderr}{ran.stdout}"
        return ran.stdout

    def submit(self, *words: str, folder: Path) -> str:
        """The id of a job that `sbatch` takes from ``folder``, where its output goes too."""
        return self.output("sbatch", "--parsable", *words, folder=folder).strip()

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` knows of a job."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.output("scontrol", "--oneliner", "show", "job", job)))

    def wait(self, job: str, *states: str, restarts: int = 0, seconds: float = 120) -> dict[str, str]:
        """The job, once it is in one of ``states`` (default: once it has ended) after at least so many ``restarts``."""
        found: dict[str, str] = {}

        def arrived() -> bool:
            found.update(self.job(job))
            if found["Reason"] == "launch_failed_requeued_held":  # a node too busy to start it in time
                self.output("scontrol", "release", job)
            return found["JobState"] in (states or ENDED) and int(found["Restarts"]) >= restarts

        wait_until(arrived, seconds, lambda: f"job {job} {states or 'ended'}, restarts {restarts}; it is {found}")
        return found

    def signal(self, job: str, name: str, *words: str) -> None:
        """Sends a signal to the job's steps, or with ``--full`` to its batch shell too."""
        self.output("scancel", f"--signal={name}", *words, job)

    def power_off(self, node: str) -> None:
        """Cuts the power of a node."""
        self._stop(node)
        time.sleep(1.2)  # SLURM counts boot times in whole seconds: a faster reboot goes unseen

    def power_on(self, node: str) -> None:
        """Boots a node; returns when it is in service, and when SLURM has taken from it the jobs that it had before."""
        before = self._node_started(node)
        self._start_node(node)
        wait_until(lambda: self._node_started(node) != before, 60, self.logs)
        wait_until(lambda: self._is_in_service(node, self.node_state(node)), 60, self.logs)

    def cut(self, node: str) -> None:
        """Pulls a node's network cable; its processes go on."""
        self._network("link", "set", node, "down")

    def heal(self, node: str) -> None:
        """Plugs a node's network cable in."""
        self._network("link", "set", node, "up")

    def node_state(self, node: str) -> str:
        """The state of a node as `sinfo` says it: ``idle``, ``mixed``, ``down``; ``down*`` when it does not respond."""
        words = ("--noheader", "--Node", f"--nodes={node}", "--partition=main", "--format=%T")
        return self.output("sinfo", *words).strip()

    def reset(self) -> None:
        """Kills all jobs, and brings all nodes back: the state in which a test starts."""
        for node in self.nodes:
            if node in self._machines and self.node_state(node) in IN_SERVICE:
                self.heal(node)
                continue
            self._stop(node)
            self.power_on(node)
        self.output("scancel", f"--user={os.getuid()}")
        self._wait_until_idle()

    @property
    def _environment(self) -> dict[str, str]:
        """Variables of a user: none of the tests' own, so that no rank or job number comes in from outside."""
        kept = {name: os.environ[name] for name in ("HOME", "USER", "LANG", "TMPDIR") if name in os.environ}
        own = {"PATH": f"{Path(sys.executable).parent}:{PATH}", "SLURM_CONF": str(self.folder / "slurm.conf")}
        return kept | own | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    def _write_files(self, settings: tuple[str, ...]) -> None:
        replaced = {line.partition("=")[0] for line in settings}
        lines = CONFIGURATION.format(folder=self.folder).strip().splitlines()
        node = f"NodeName={{}} NodeAddr={{}} CPUs={NUM_CPUS} RealMemory={MEMORY_MB} Gres=gpu:{NUM_GPUS}"
        nodes = [node.format(name, self._addresses[name]) for name in self.nodes]
        kept = [line for line in lines if line.partition("=")[0] not in replaced]
        self._write("slurm.conf", *kept, *settings, *nodes)
        self._write("gres.conf", f"Name=gpu File={self._private}/gpu[0-{NUM_GPUS - 1}]")
        self._write("cgroup.conf", "CgroupPlugin=cgroup/v1")  # not used, but looking for the right one can fail
        self._write("hosts", "127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._addresses.items()))
        for name in (LOGIN, *self.nodes):
            self._write(f"{name}.log")  # so that it belongs to the user, not to root
        self._private.mkdir()
        (self._private / "munge.key").write_bytes(os.urandom(128))
        (self._private / "munge.key").chmod(0o600)

    def _write(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def _start_login(self) -> None:
        self._machines[LOGIN] = Machine(LOGIN, self.folder / "hosts")
        self._network("link", "add", "br0", "type", "bridge")
        self._network("address", "add", "10.0.0.1/24", "dev", "br0")
        self._network("link", "set", "br0", "up")
        for number in range(NUM_GPUS):  # slurmd wants a device for each GPU, and any will do
            as_root("mknod", str(self._private / f"gpu{number}"), "c", "1", "3")
        files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = (f"--{option}={self._private}/munge.{ending}" for option, ending in files.items())
        self._as_root(LOGIN, "munged", "--force", *options)  # forced to take a folder that others may write to
        self._as_root(LOGIN, "slurmctld", "-f", f"{self.folder}/slurm.conf")

    def _start_node(self, node: str) -> None:
        # The kernel takes its time to remove the cable of a node that is gone.
        self._machines[LOGIN].run("ip", "link", "delete", node, root=True)
        self._machines[node] = Machine(node, self.folder / "hosts")
        connect(self._machines[LOGIN], self._machines[node], f"{self._addresses[node]}/24")
        # -b reports a reboot: the uptime of a node is that of the whole machine.
        self._as_root(node, "slurmd", "-b", "-N", node, "-f", f"{self.folder}/slurm.conf")

    def _stop(self, name: str) -> None:
        if name in self._machines:
            self._machines.pop(name).stop()

    def _network(self, *words: str) -> None:
        self._as_root(LOGIN, "ip", *words)

    def _as_root(self, machine: str, *words: str) -> None:
        ran = self._machines[machine].run(*words, root=True, environment=self._environment)
        assert ran.returncode == 0, f"{' '.join(words)} on {machine}: {ran.stderr}"

    def _node_started(self, node: str) -> str:
        shown = self.output("scontrol", "show", "node", node)
        return shown.partition("SlurmdStartTime=")[2].split()[0]

    def _is_in_service(self, node: str, state: str) -> bool:
        """Whether it is. One that was gone for so short a time that nobody noticed stays down until it is resumed."""
        if state == "down":
            self._as_root(LOGIN, "scontrol", "update", f"nodename={node}", "state=resume")
        return state in IN_SERVICE

    def _wait_until_idle(self) -> None:
        def idle() -> bool:
            # The controller may not be there yet, and a node may report its reboot twice.
            ran = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T")
            states = dict(line.split() for line in ran.stdout.splitlines())
            in_service = [self._is_in_service(node, state) for node, state in states.items()]
            return all(in_service) and list(states.values()) == ["idle"] * len(self.nodes)

        wait_until(idle, 60, self.logs)

    def logs(self) -> str:
        """The last lines of all its logs."""
        ends = {log.name: log.read_text().splitlines()[-8:] for log in sorted(self.folder.glob("*.log"))}
        return "\n".join(f"== {name}\n" + "\n".join(lines) for name, lines in ends.items())
