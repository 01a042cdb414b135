"""Signals to a process that has started others: the first lets them save and end, the second kills them.

The processes it starts are sessions of their own, so a terminal's Ctrl-C reaches this process alone, and each of them
gets one signal and not two.
"""

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Relay:
    """While entered, passes signals on to ``processes()``, the ids of the running processes.

    They get SIGTERM, whatever arrived here: Python answers SIGINT with a traceback until somebody says otherwise, and a
    process that has not begun to train should end at once and quietly.
    """

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self.processes = processes
        self.received: list[int] = []
        self._is_passed_on = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "Relay":
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or the background job of a script
                self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)
        if len(self.received) == 1:
            self.pass_on()
        else:
            for process in self.processes():
                with suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)

    def pass_on(self) -> None:
        """Sends what arrived before there was a process to send it to. Sends it once."""
        if not self.received or self._is_passed_on:
            return
        for process in self.processes():
            self._is_passed_on = True
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
