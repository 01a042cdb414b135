"""`metrics.jsonl`: append-only, one JSON object a line, each block in one write, so that a crash tears nothing."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from distmlp.log import log


class MetricsFile:
    """Appends lines to ``path``. A full disk costs lines, which is said once, and never ends the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failed = False

    def append(self, lines: list[dict[str, Any]]) -> None:
        """Writes ``lines``; a value that is no finite number becomes null, since JSON has no word for it."""
        block = "".join(json.dumps(_finite(line)) + "\n" for line in lines).encode()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(descriptor, block)
                if written < len(block):  # the disk filled up on the way
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self.failed:
                log.warning("metrics.jsonl cannot be written (%s): training goes on without it", error.strerror)
            self.failed = True


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
