"""Which address and interface of this machine the network to another machine goes through."""

import fcntl
import socket
import struct

SIOCGIFADDR = 0x8915  # linux/sockios.h
ANY_PORT = 9  # nothing is sent


def address_towards(host: str) -> str:
    """This machine's IPv4 address on the way to ``host``; empty where there is no way, or no such host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, ANY_PORT))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """The interface that has ``address``, such as ``eth0``; empty where none does, or the system does not say."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return ""
