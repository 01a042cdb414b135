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

    def go_back_to(self, step: int, discarded: Path) -> float:
        """Takes out the lines of steps after ``step``, which a resumed run takes again; they go to ``discarded``.

        Returns:
            seconds of the last line that stays.
        """
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        values = [json.loads(line) if line.endswith(b"\n") else {"step": math.inf} for line in lines]
        stays = [value["step"] <= step for value in values]
        if not all(stays):
            with discarded.open("ab") as file:
                file.writelines(line for line, kept in zip(lines, stays, strict=True) if not kept)
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            temporary.write_bytes(b"".join(line for line, kept in zip(lines, stays, strict=True) if kept))
            os.replace(temporary, self.path)
        return max((value["seconds"] for value, kept in zip(values, stays, strict=True) if kept), default=0.0)

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
