"""A filter on a listening socket that drops new connections and keeps those that exist.

Responsible for: the kernel's part in a stop that loses no request. Between the last `accept` and
the closing of a listener a client may connect, and is reset by the closing. Linux can drop the
packets that open connections first; their client tries again after a second and is rejected then.
Elsewhere that moment stays. Invariant: connections that exist are not touched, and those that are
being opened still come to be: their client may think that they exist, and send its request.

Source: socket(7) on SO_ATTACH_FILTER, and classic BPF, which sees a segment from its TCP header on.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

# Seconds that a client across an ocean takes for its part of opening a connection; less than the
# one after which it tries again.
HANDSHAKE_S = 0.3
SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python does not name it
# Each is operation, jumps where true and where false, operand.
_FIRST_SEGMENTS_ARE_DROPPED = (
    (0x30, 0, 0, 13),  # ldb [13]: the flags
    (0x54, 0, 0, 0x12),  # and #(SYN | ACK)
    (0x15, 0, 1, 0x02),  # jeq #SYN, else skip one
    (0x06, 0, 0, 0),  # ret #0: nothing passes
    (0x06, 0, 0, 0xFFFF_FFFF),  # ret #-1: all of it passes
)


def drop_new_connections(listener: socket.socket) -> None:
    """Drop what would open further connections, where the system can."""
    if sys.platform != "linux":
        return
    program = b"".join(struct.pack("HBBI", *step) for step in _FIRST_SEGMENTS_ARE_DROPPED)
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, padding, their address.
    described = struct.pack("HL", len(_FIRST_SEGMENTS_ARE_DROPPED), ctypes.addressof(instructions))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)
