"""What the launching process hands to its ranks: a private folder with the configuration, where they leave a status.

The configuration is handed over whole. `compose.load_frozen` takes the run's id and the trusted packages out of a file
that somebody gave; this file comes from our own parent, which took both from the command line.
"""

import json
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distmlp.compose import Composed

FOLDER_KEY = "DISTMLP_HANDOVER"


@dataclass(frozen=True)
class Handover:
    """The folder between a launching process and its ranks on this machine."""

    folder: Path

    @classmethod
    def received(cls, environment: MutableMapping[str, str] = os.environ) -> "Handover | None":
        """What this process was started with, if it is a rank. Taken out, so that what a rank starts is none."""
        folder = environment.pop(FOLDER_KEY, "")
        return cls(Path(folder)) if folder else None

    def give(self, composed: Composed) -> None:
        """Writes the configuration for the ranks."""
        (self.folder / "config.json").write_text(json.dumps(composed.values), encoding="utf-8")

    def composed(self) -> Composed:
        """The configuration that the launching process composed."""
        values: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return Composed.of(values)

    def leave(self, status: int) -> int:
        """A rank's exit status. Another than 0 would make the agent stop the ranks that are still about to end."""
        if status:
            (self.folder / "status").write_text(str(status), encoding="utf-8")
        return 0

    def status(self) -> int:
        """The status that the ranks left."""
        file = self.folder / "status"
        return int(file.read_text(encoding="utf-8")) if file.exists() else 0
