"""An adb server that does not do what it should."""

from __future__ import annotations

import socket
import struct
import threading

from edgekit.device.adb_server import AdbServer


def test_a_server_that_crashes_under_the_question_is_asked_again() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def answer() -> None:
        for crashes in (True, False):
            connection, _ = listener.accept()
            connection.recv(100)
            if crashes:
                # Closed with a reset, as the kernel closes for a process that has died.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                text = b"10.0.0.2:5555          device product:board\n"
                connection.sendall(b"OKAY%04x" % len(text) + text)
            connection.close()

    server = threading.Thread(target=answer)
    server.start()
    try:
        (found,) = AdbServer("127.0.0.1", listener.getsockname()[1]).devices()
    finally:
        server.join()
        listener.close()
    assert (found.serial, found.state) == ("10.0.0.2:5555", "device")
