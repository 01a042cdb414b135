"""How a command runs inside a container on a node: by SLURM's pyxis plugin, or by Apptainer."""

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Container:
    """An image and what of the host is seen in it. Paths are the same inside and outside.

    Args:
        runtime: ``pyxis`` or ``apptainer``.
        image: a file, or a registry's name in the runtime's form.
        mounts: ``SOURCE:TARGET``.
        work_dir: where commands run.
    """

    runtime: str
    image: str
    mounts: tuple[str, ...]
    work_dir: str

    def step_options(self) -> list[str]:
        """Options of srun."""
        if self.runtime != "pyxis":
            return []
        options = {"image": self.image, "mounts": ",".join(self.mounts), "workdir": self.work_dir}
        return [shlex.quote(f"--container-{name}={value}") for name, value in options.items()]

    def command(self, *, gpus: bool) -> list[str]:
        """What stands before a command."""
        if self.runtime != "apptainer":
            return []
        binds = [word for mount in self.mounts for word in ("--bind", shlex.quote(mount))]
        where = [*binds, "--pwd", shlex.quote(self.work_dir)]
        return ["apptainer", "exec", *(["--nv"] if gpus else []), *where, shlex.quote(self.image)]

    def single(self) -> list[str]:
        """What stands before a command of the batch shell, which is outside of the container."""
        if self.runtime == "pyxis":
            return ["srun", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", *self.step_options()]
        return self.command(gpus=False)
