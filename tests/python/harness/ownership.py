"""Which process holds the other end of a connection.

The kernel tells it for a moment in which nothing moves: stop the process first. A
connection that waits to be accepted belongs to nobody.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from pathlib import Path

SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
UDIAG_SHOW_PEER = 4
UNIX_DIAG_PEER = 2
ALL = 0xFFFFFFFF


def sockets_of(pid: int) -> set[int]:
    """The inode numbers of the sockets that a process has open."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = os.readlink(entry)
        except FileNotFoundError:
            continue
        if match := re.fullmatch(r"socket:\[(\d+)\]", link):
            found.add(int(match[1]))
    return found


def other_ends(sockets: list[socket.socket]) -> dict[socket.socket, int]:
    """For connected sockets of this machine the inode number of the other end, if it is
    anybody's."""
    tcp = _tcp_inodes()
    found = {}
    for one in sockets:
        try:
            if one.family == socket.AF_UNIX:
                inode = _unix_peer(os.fstat(one.fileno()).st_ino)
            else:
                inode = tcp.get((one.getpeername()[1], one.getsockname()[1]), 0)
        except OSError:
            # Not connected yet, or not any more, or closed by its event loop already.
            continue
        if inode:
            found[one] = inode
    return found


def _tcp_inodes() -> dict[tuple[int, int], int]:
    """The inode of each TCP socket by its own port and that of its peer."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[column].rpartition(":")[2], 16) for column in (1, 2))
        found[local, remote] = int(fields[9])
    return found


def _unix_peer(inode: int) -> int:
    """The inode of the socket that a UNIX socket is connected to (sock_diag(7))."""
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, ALL, inode, UDIAG_SHOW_PEER, ALL, ALL)
    header = struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as link:
        link.settimeout(5)
        link.sendto(header + request, (0, 0))
        answer = link.recv(8192)
    _, kind = struct.unpack_from("=IH", answer)
    if kind != SOCK_DIAG_BY_FAMILY:
        return 0
    position = 16 + 16
    while position + 4 <= len(answer):
        length, attribute = struct.unpack_from("=HH", answer, position)
        if attribute == UNIX_DIAG_PEER:
            return int(struct.unpack_from("=I", answer, position + 4)[0])
        position += (length + 3) & ~3
        if not length:
            break
    return 0
