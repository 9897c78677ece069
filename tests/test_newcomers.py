import socket
import sys

import pytest

from qwen_captcha.newcomers import keep_newcomers_out

PATIENCE_S = 10.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can")
def test_who_is_connected_stays_and_nobody_else_gets_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address, PATIENCE_S) as early:
            keep_newcomers_out(listener)
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
        socket.create_connection(address, PATIENCE_S)
