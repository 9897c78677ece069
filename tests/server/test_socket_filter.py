import socket
import sys

import pytest

from qwen_captcha.server.socket_filter import drop_new_connections

MAX_WAIT_S = 10.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can")
def test_connected_clients_stay_and_no_others_get_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address, MAX_WAIT_S) as early:
            drop_new_connections(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, 0.2)
            accepted, _ = listener.accept()
            with accepted:
                early.sendall(b"here")
                assert accepted.recv(4) == b"here"
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, MAX_WAIT_S)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can")
def test_who_is_being_let_in_when_the_door_shuts_gets_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # For the client a connection is open from here on; for the listener, with its first bytes.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        with socket.create_connection(listener.getsockname(), MAX_WAIT_S) as early:
            drop_new_connections(listener)
            early.sendall(b"here")
            listener.settimeout(MAX_WAIT_S)
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(4) == b"here"
