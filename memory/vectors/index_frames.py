"""How the index's process and its host talk: one frame each way over a socket pair.

A frame is two lengths (4 bytes each, big-endian), a JSON object, and raw bytes (vectors as float32,
ids as int64, both little-endian). No pickles: a damaged or hostile peer can at worst send wrong
numbers, and those are checked. Standard library only, as both sides load it.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

Fields = dict[str, Any]

_LENGTHS = struct.Struct(">II")
_MOST = 256 * 1024 * 1024
"""Longest part of a frame; the largest that is sent is a batch of vectors, a few megabytes."""


class Closed(Exception):
    """The other side is gone, or what it sent is not a frame."""


def send(peer: socket.socket, fields: Fields, payload: bytes = b"") -> None:
    """Send one frame. Raises :class:`Closed`, or ``TimeoutError`` after the socket's time limit."""
    head = json.dumps(fields, ensure_ascii=True).encode("ascii")
    try:
        peer.sendall(_LENGTHS.pack(len(head), len(payload)) + head + payload)
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed(str(error)) from error


def receive(peer: socket.socket, deadline: float | None = None) -> tuple[Fields, bytes]:
    """Return the next frame. Raises :class:`Closed`, or ``TimeoutError`` at ``deadline`` (monotonic)."""
    head_length, payload_length = _LENGTHS.unpack(_exactly(peer, _LENGTHS.size, deadline))
    if max(head_length, payload_length) > _MOST:
        raise Closed("the frame is too long")
    head = _exactly(peer, head_length, deadline)
    payload = _exactly(peer, payload_length, deadline)
    try:
        fields = json.loads(head)
    except ValueError as error:
        raise Closed("the frame is not JSON") from error
    if not isinstance(fields, dict):
        raise Closed("the frame is not an object")
    return fields, payload


def _exactly(peer: socket.socket, count: int, deadline: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            peer.settimeout(left)
        try:
            part = peer.recv(min(count - len(parts), 1 << 20))
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from error
        if not part:
            raise Closed("the connection ended")
        parts += part
    return bytes(parts)
