"""What systemd wants to hear from a service of Type=notify: sd_notify(3), one datagram of lines."""

import os
import socket


def notify(*lines: str) -> None:
    """Say `READY=1`, `WATCHDOG=1`, … to whoever started us. Says nothing where that is not systemd; never raises."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place:
        return
    address = f"\0{place[1:]}" if place.startswith("@") else place
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        try:
            channel.sendto("\n".join(lines).encode(), address)
        except OSError:
            pass  # One sign of life of many; systemd acts on minutes without any.
