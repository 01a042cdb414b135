"""Who a process is comes from whoever started it, as recorded from real launchers; contradictions are named."""

from pathlib import Path

import pytest

from distmlp.errors import ConfigError
from distmlp.runtime import (
    MeetingPoint,
    World,
    check_split_size,
    check_world,
    discover,
    has_launcher,
    job_id,
    meeting_point,
    num_restarts,
    own_rank,
    threads_of_a_task,
)

RECORDED = Path(__file__).with_name("environments")


def recorded(name: str) -> dict[str, str]:
    """What a real launcher set."""
    lines = (RECORDED / f"{name}.txt").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def torchrun(rank: object, world_size: object, local_rank: object, local_world_size: object) -> dict[str, str]:
    keys = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return dict(zip(keys, map(str, (rank, world_size, local_rank, local_world_size)), strict=True))


def test_without_a_launcher_the_world_is_this_process() -> None:
    assert discover({}) == World(0, 1, 0, 1)
    assert discover({"HOME": "/root", "MASTER_ADDR": "x", "SLURM_JOB_ID": "3"}) == World(0, 1, 0, 1)


@pytest.mark.parametrize(
    ("given", "num_nodes"),
    [((0, 1, 0, 1), 1), ((3, 4, 3, 4), 1), ((5, 8, 1, 4), 2), ((2, 3, 0, 1), 3)],
)
def test_torchrun_s_variables_are_the_world(given: tuple[int, int, int, int], num_nodes: int) -> None:
    world = discover(torchrun(*given))
    assert (world.rank, world.world_size, world.local_rank, world.local_world_size) == given
    assert world.num_nodes == num_nodes


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_a_missing_variable_is_named(missing: str) -> None:
    environment = torchrun(0, 2, 0, 2)
    del environment[missing]
    first = next(iter(environment))
    message = f"^{first} is set and {missing} is not: start ranks with torchrun, or unset {first}$"
    with pytest.raises(ConfigError, match=message):
        discover(environment)


@pytest.mark.parametrize("value", ["", "two", "1.5", "0x1"])
def test_a_variable_that_is_no_number_is_named_with_all(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"must be whole numbers, they are RANK=0, WORLD_SIZE={value}, LOCAL_RANK=0"):
        discover(torchrun(0, value, 0, 1))


@pytest.mark.parametrize(
    "given", [(2, 2, 0, 2), (-1, 2, 0, 2), (0, 2, 2, 2), (0, 2, -1, 2), (0, 0, 0, 0), (0, -2, 0, 1)]
)
def test_ranks_outside_their_world_contradict(given: tuple[int, int, int, int]) -> None:
    message = (
        f"^RANK={given[0]} of WORLD_SIZE={given[1]} and LOCAL_RANK={given[2]} of LOCAL_WORLD_SIZE={given[3]} "
        "contradict each other: ranks count from 0$"
    )
    with pytest.raises(ConfigError, match=message):
        discover(torchrun(*given))


def test_nodes_with_unequal_numbers_of_processes_are_refused() -> None:
    message = "^WORLD_SIZE=5 is no multiple of LOCAL_WORLD_SIZE=2: give every node the same number of processes"
    with pytest.raises(ConfigError, match=message):
        discover(torchrun(4, 5, 0, 2))


@pytest.mark.parametrize(
    ("name", "launcher", "world"),
    [
        ("sbatch_srun_task0", "srun", World(0, 4, 0, 2)),
        ("sbatch_srun_task3", "srun", World(3, 4, 1, 2)),
        ("sbatch_gpus_srun_task3", "srun", World(3, 4, 1, 2)),
        ("sbatch_srun_N2_n2_task1", "srun", World(1, 2, 0, 1)),
        ("srun_login_gpus_per_task_task1", "srun", World(1, 2, 1, 2)),
        ("srun_login_single", "none", World(0, 1, 0, 1)),
        ("srun_pty_shell", "none", World(0, 1, 0, 1)),
        ("sbatch_srun_overlap_n1", "none", World(0, 1, 0, 1)),
        ("sbatch_array_srun_task_3", "none", World(0, 1, 0, 1)),
        ("openmpi_task1", "mpirun", World(1, 2, 1, 2)),
        ("hydra_task1", "mpirun", World(1, 2, 1, 2)),
        ("sbatch_openmpi_task3", "mpirun", World(3, 4, 1, 2)),
        ("sbatch_hydra_task3", "mpirun", World(3, 4, 1, 2)),
    ],
)
def test_real_launchers_say_who_a_process_is(name: str, launcher: str, world: World) -> None:
    environment = recorded(name)
    found = discover(environment)
    assert (found, found.launcher) == (world, launcher)
    assert has_launcher(environment) == (launcher != "none")
    assert own_rank(environment) == world.rank


@pytest.mark.parametrize("name", ["sbatch_batch_shell", "salloc_shell", "sbatch_gpus_batch_shell"])
def test_a_job_of_several_tasks_without_srun_is_told_what_to_add(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^SLURM job \d+ has 4 tasks on 2 node\(s\), and only srun .*: write srun pyth"
    ):
        discover(recorded(name))


def test_a_job_of_one_task_runs_without_srun_but_only_on_its_node() -> None:
    batch = recorded("sbatch_array_batch_shell_3")
    assert discover(batch) == World(0, 1, 0, 1)
    del batch["SLURMD_NODENAME"]  # as in the shell of salloc, on the login host
    with pytest.raises(
        ConfigError, match=r"^this shell holds SLURM job 7_3, but runs on \S+, not on node1: write srun"
    ):
        discover(batch)


def test_the_shell_that_salloc_opens_on_a_node_is_no_task() -> None:
    shell = recorded("srun_pty_shell") | {"SLURM_STEP_ID": "4294967290", "SLURM_JOB_NUM_NODES": "2"}
    with pytest.raises(ConfigError, match="has 2 tasks on 2 node"):
        discover(shell)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sbatch_srun_n3_task2", {}, "^srun started SLURM_STEP_TASKS_PER_NODE=2,1: give every node the same number"),
        ("sbatch_srun_task3", {"WORLD_SIZE": "8"}, "^WORLD_SIZE=8, but srun says 4: unset WORLD_SIZE"),
        ("sbatch_srun_task3", {"RANK": "1"}, "^RANK=1, but srun says 3: unset RANK"),
        ("sbatch_srun_task3", {"SLURM_LOCALID": "0"}, "^task 3 is process 0 of node 1, .*--distribution=block"),
        (
            "sbatch_srun_task3",
            torchrun(1, 2, 1, 2) | {"TORCHELASTIC_RUN_ID": "x"},
            "^srun started 4 tasks, but torchrun formed a world of 1 node",
        ),
    ],
)
def test_what_contradicts_srun_is_named_with_both_numbers(name: str, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        discover(recorded(name) | changes)


def test_torchrun_in_one_task_for_each_node_is_the_launcher() -> None:
    inside = recorded("sbatch_srun_N2_n2_task1") | torchrun(3, 4, 1, 2) | {"TORCHELASTIC_RUN_ID": "x"}
    assert (discover(inside), discover(inside).launcher) == (World(3, 4, 1, 2), "torchrun")


def test_deepspeed_s_launcher_has_its_own_name_for_the_processes_of_a_node() -> None:
    given = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "CROSS_RANK": "1", "CROSS_SIZE": "2"}
    assert discover(given) == World(3, 4, 1, 2)


def test_a_pod_of_kubernetes_is_a_rank() -> None:
    pod = {"RANK": "1", "WORLD_SIZE": "3", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert (discover(pod), discover(pod).launcher) == (World(1, 3, 0, 1), "Kubernetes")
    there = {"MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}
    point = meeting_point(discover(pod), pod | there)
    assert (point.host, point.port, point.is_open) == ("job-master-0", 23456, False)
    with pytest.raises(
        ConfigError, match=r"^Kubernetes: 3 rank\(s\) .*, but MASTER_ADDR=\(unset\) and MASTER_PORT=\(unset\)"
    ):
        meeting_point(discover(pod), pod)


def test_ranks_of_srun_meet_on_the_first_host_at_a_port_of_rank_0_s_choice() -> None:
    environment = recorded("sbatch_srun_task3")
    job = environment["SLURM_JOB_ID"]
    point = meeting_point(discover(environment), environment)
    assert point == MeetingPoint("node1", 0, f"srun-{job}-0-0", hosts=("node1", "node2"))
    restarted = environment | {"SLURM_RESTART_COUNT": "2"}
    assert meeting_point(discover(restarted), restarted).key == f"srun-{job}-0-2"
    given = environment | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
    assert (meeting_point(discover(given), given).host, meeting_point(discover(given), given).port) == (
        "10.0.0.7",
        29500,
    )


def test_ranks_of_mpirun_meet_where_slurm_says_or_on_this_machine() -> None:
    hosts = [meeting_point(discover(e), e).host for e in map(recorded, ("sbatch_openmpi_task3", "openmpi_task1"))]
    assert hosts == ["node1", "127.0.0.1"]
    environment = recorded("sbatch_openmpi_task3")
    del environment["SLURM_JOB_NODELIST"]
    with pytest.raises(ConfigError, match=r"^mpirun: .*: set both for all ranks"):
        meeting_point(discover(environment), environment)


def test_ranks_of_torchrun_meet_in_its_agent_s_store() -> None:
    agent = {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    environment = torchrun(0, 2, 0, 2) | agent | {"MASTER_ADDR": "node1", "MASTER_PORT": "4000"}
    assert meeting_point(discover(environment), environment) == MeetingPoint("node1", 4000, "x/1", is_open=True)


def test_the_job_and_its_restarts() -> None:
    assert (job_id({}), num_restarts({})) == ("", 0)
    assert job_id(recorded("sbatch_array_srun_task_3")) == "7_3"
    assert job_id({"SLURM_JOB_ID": "12"}) == "12"
    assert num_restarts({"SLURM_RESTART_COUNT": "2", "DISTMLP_RESTARTS": "3"}) == 5


def test_a_task_of_srun_takes_the_cores_that_slurm_gave_it() -> None:
    environment = recorded("sbatch_srun_task3")
    world = discover(environment)
    assert threads_of_a_task(world, environment | {"SLURM_CPUS_PER_TASK": "7"}) == 7
    assert threads_of_a_task(world, environment | {"SLURM_CPUS_ON_NODE": "6"}) == 3
    assert threads_of_a_task(world, environment | {"OMP_NUM_THREADS": "1"}) is None
    assert threads_of_a_task(World(0, 2, 0, 2, "torchrun"), environment) is None


def test_how_ranks_came_to_be_is_one_line() -> None:
    environment = recorded("sbatch_srun_task3")
    job = environment["SLURM_JOB_ID"]
    assert discover(environment).describe(environment) == f"srun: 4 rank(s) on 2 node(s), SLURM job {job}"
    assert discover({}).describe({}) == "no launcher: one process"


EIGHT = World(rank=5, world_size=8, local_rank=1, local_world_size=4)


def test_a_configuration_that_agrees_with_the_launcher_passes() -> None:
    check_world(EIGHT, nodes=2, devices=4)
    check_world(EIGHT, nodes="auto", devices="auto")
    check_world(World(0, 1, 0, 1), nodes=1, devices=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 3}, r"^trainer\.nodes=3, but the launcher started 2 node\(s\)$"),
        (
            {"nodes": 3, "devices": 2},
            r"^trainer\.nodes=3 × trainer\.devices=2 = 6, but WORLD_SIZE=8: use torchrun --nnodes=3",
        ),
        (
            {"devices": 8},
            r"^trainer\.devices=8, but 4 process\(es\) were started on this node: "
            r"use torchrun --standalone --nproc-per-node=8 ",
        ),
    ],
)
def test_what_disagrees_with_the_launcher_is_named_with_both_numbers(options: dict[str, object], message: str) -> None:
    agreeing: dict[str, object] = {"nodes": "auto", "devices": "auto"}
    with pytest.raises(ConfigError, match=message):
        check_world(EIGHT, **(agreeing | options))  # type: ignore[arg-type]


def test_what_disagrees_with_srun_is_named_as_slurm_names_it() -> None:
    world = World(5, 8, 1, 4, "srun")
    message = (
        r"^trainer\.nodes=2 × trainer\.devices=8 = 16, but SLURM_NTASKS=8: use srun --nodes=2 --ntasks-per-node=8$"
    )
    with pytest.raises(ConfigError, match=message):
        check_world(world, nodes=2, devices=8)


def test_every_rank_needs_a_sample_of_every_split() -> None:
    check_split_size(EIGHT, 8)
    with pytest.raises(ConfigError, match=r"^the smallest split has 7 sample\(s\), fewer than WORLD_SIZE=8$"):
        check_split_size(EIGHT, 7)


def test_a_launcher_is_known_by_any_of_its_variables() -> None:
    assert not has_launcher({"MASTER_ADDR": "x"})
    assert has_launcher(torchrun(0, 1, 0, 1))
    assert has_launcher({"LOCAL_RANK": "0"})
