"""A listening socket that lets nobody in any more, but keeps who is connected already.

Responsible for: the kernel's part in a stop that loses nobody. Between the last `accept` and the
closing of a listener somebody may connect, and is reset by the closing. Linux can drop the
packets that open connections first; whoever they came from tries again and is refused then.
Elsewhere that moment stays. Invariant: connections that exist are not touched.

Source: socket(7) on SO_ATTACH_FILTER; classic BPF's `ret #0`, which passes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python does not name it
_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)


def keep_newcomers_out(listener: socket.socket) -> None:
    """Drop what would open further connections, where the system can."""
    if sys.platform != "linux":
        return
    instructions = ctypes.create_string_buffer(_RETURN_NOTHING)
    # struct sock_fprog: the number of instructions, padding, their address.
    program = struct.pack("HL", 1, ctypes.addressof(instructions))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
