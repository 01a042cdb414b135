"""`sbatch`, as this host has it. No shell is between, and a complaint becomes one line. See `queue.py` for the rest."""

import os
import re
import subprocess
from pathlib import Path

from distmlp.errors import ConfigError

SECONDS = 120  # a controller of a large site may take its time
ANSWER = re.compile(r"[0-9]+(;.*)?")


def check_script(script: str) -> None:
    """Asks sbatch whether it would take the text of a script. Nothing is submitted.

    Raises:
        ConfigError: it would not, for the reason that it gives.
    """
    _call(["sbatch", "--test-only"], script)


def submit(script: Path) -> str:
    """Submits a script. Returns the id of the job.

    Raises:
        ConfigError: sbatch refuses it.
    """
    answer = _call(["sbatch", "--parsable", str(script)]).strip()
    if not ANSWER.fullmatch(answer):
        raise ConfigError(f"sbatch --parsable must answer with the job's id, and says {answer!r}")
    return answer.partition(";")[0]


def _call(command: list[str], text: str | None = None) -> str:
    # A chain of jobs that took over from each other counts from here.
    environment = {key: value for key, value in os.environ.items() if key != "DISTMLP_RESTARTS"}
    try:
        done = subprocess.run(
            command, input=text or "", capture_output=True, text=True, env=environment, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{command[0]} gave no answer in {SECONDS} s: is SLURM's controller there?") from None
    except OSError as error:
        raise ConfigError(
            f"{command[0]} cannot be run ({error.strerror}): submit where SLURM's commands are, or print the script "
            "with --dry-run"
        ) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines()
        said = dict.fromkeys(re.sub(rf"^{command[0]}: (error: |fatal: )?", "", line).strip() for line in lines)
        raise ConfigError(f"{command[0]} refuses: {'; '.join(filter(None, said))}")
    return done.stdout
