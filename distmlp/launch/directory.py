"""How ranks learn the port of rank 0's store where no launcher tells them, as under srun.

Rank 0 takes a free port for the store and announces it on the first free of some ports that follow from the job. The
others ask on these ports in turn. What answers without knowing the job's key is another job, or another program.
"""

import hashlib
import socket
import threading
from contextlib import suppress

FIRST_PORT, NUM_PORTS = 10_000, 20_000  # below the ports that Linux gives out by itself
NUM_CANDIDATES = 16
SECONDS_TO_ANSWER = 2.0


def candidate_ports(key: str) -> list[int]:
    """Where a job announces its store, in the order in which they are tried."""
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    return [FIRST_PORT + (start + 997 * number) % NUM_PORTS for number in range(NUM_CANDIDATES)]


class Directory:
    """While entered, tells those who know ``key`` the port of the store. ``port``: where it does so."""

    def __init__(self, key: str, store_port: int) -> None:
        self._question = _question(key)
        self._answer = f"{store_port}\n".encode()
        self._socket = _first_free(candidate_ports(key))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="directory", daemon=True)

    def __enter__(self) -> "Directory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(SECONDS_TO_ANSWER)
                if connection.recv(len(self._question), socket.MSG_WAITALL) == self._question:
                    connection.sendall(self._answer)


def ask(host: str, key: str) -> int:
    """The port of the store of the job with ``key`` on ``host``.

    Raises:
        OSError: nobody there knows it, at least not yet; or the host cannot be reached at all.
    """
    fault = OSError(f"no port of {host} answers")
    for port in candidate_ports(key):
        try:
            connection = socket.create_connection((host, port), timeout=SECONDS_TO_ANSWER)
        except ConnectionRefusedError as error:
            fault = error
            continue
        with connection, suppress(OSError):  # who answers wrongly, or not, is somebody else
            connection.sendall(_question(key))
            answer = connection.recv(16)
            if answer.strip().isdigit():
                return int(answer)
    raise fault


def _question(key: str) -> bytes:
    return hashlib.sha256(f"distmlp {key}".encode()).digest()


def _first_free(ports: list[int]) -> socket.socket:
    for port in ports:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # A job that was restarted may take the port of its former start at once; a port in use stays refused.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
            listening.listen(1024)
        except OSError:
            listening.close()
            continue
        return listening
    raise OSError(f"all of the ports {', '.join(map(str, ports))} are in use on {socket.gethostname()}")
