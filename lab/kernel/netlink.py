"""rtnetlink, built by hand: requests as bytes, many of them in one system call (netlink(7), rtnetlink(7)).

Why not pyroute2: docs/decisions/0001-raw-netlink.md.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lab.errors import FeatureMissing, LabError, NeedsRoot, NetworkError
from lab.kernel import origin

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x001, 0x004, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NEW = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
NLMSG_ERROR, NLMSG_DONE = 2, 3

RTM_NEWLINK, RTM_GETLINK, RTM_SETLINK = 16, 18, 19
RTM_NEWADDR, RTM_NEWROUTE, RTM_GETROUTE, RTM_NEWNEIGH = 20, 24, 26, 28
RTM_GETSTATS = 94

SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12  # strict: 4.20
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000

# Below the default send buffer (212992 bytes), above which the kernel says EMSGSIZE.
CHUNK_BYTES = 64 * 1024
# Answers wait in the receive buffer, each as a page or so of kernel memory: fewer than fit the default 212992 bytes.
QUESTIONS = 24

_CONFIG = {
    "veth": "CONFIG_VETH",
    "bridge": "CONFIG_BRIDGE",
    "vlan": "CONFIG_VLAN_8021Q",
    "vxlan": "CONFIG_VXLAN",
}

LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, ifindex, flags, change mask."""
ADDRESS = struct.Struct("=BBBBi")
"""struct ifaddrmsg: family, prefix length, flags, scope, ifindex."""
ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Request(NamedTuple):
    """One message: its type, flags and body, and the words in which an error says what was being done.

    The words are joined when there is an error: joining those of 500 namespaces takes as long as the kernel for ten.
    """

    kind: int
    flags: int
    body: bytes
    what: tuple[object, ...]


class Reply(NamedTuple):
    """One message from the kernel."""

    kind: int
    body: bytes


def attribute(kind: int, payload: bytes) -> bytes:
    """An attribute, padded to four bytes (struct nlattr)."""
    size = len(payload) + 4
    return _ATTRIBUTE.pack(size, kind) + payload + _PADDING[size & 3]


def u32(kind: int, value: int) -> bytes:
    """An attribute that holds a number of 32 bits in the machine's byte order."""
    return struct.pack("=HHI", 8, kind, value)


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a string that ends in NUL."""
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data`, as (kind, payload)."""
    at = 0
    while at + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


class RouteSocket:
    """A NETLINK_ROUTE socket of the namespace that the calling thread was in when it was made.

    It keeps speaking to that namespace from any thread and any other namespace, and keeps it alive.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        origin.descriptor(self._socket.fileno())
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._sequence = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Gives the socket back; a second call does nothing."""
        self._socket.close()

    def batch(self, requests: Sequence[Request]) -> None:
        """Sends the requests in as few system calls as possible; NetworkError names the first that was refused.

        The kernel answers every message that it refuses, so asking for an ACK of the last one alone is enough.
        """
        with self._lock:
            for chunk in _chunks(requests):
                self._exchange_chunk(chunk)

    def ask(self, request: Request) -> list[Reply]:
        """The answers to one request that gets something, or dumps something (NLM_F_DUMP)."""
        with self._lock:
            self._sequence += 1
            self._socket.send(_pack(request, self._sequence, NLM_F_REQUEST | NLM_F_ACK))
            return list(self._replies(request))

    def ask_each(self, requests: Sequence[Request]) -> list[Reply]:
        """The one answer to each of many requests, in order; a refusal is an answer of kind NLMSG_ERROR."""
        replies: list[Reply] = []
        with self._lock:
            for start in range(0, len(requests), QUESTIONS):
                replies += self._ask_chunk(requests[start : start + QUESTIONS])
        return replies

    def _ask_chunk(self, chunk: Sequence[Request]) -> list[Reply]:
        first = self._sequence + 1
        self._sequence += len(chunk)
        self._socket.sendall(b"".join(_pack(each, first + at, NLM_F_REQUEST) for at, each in enumerate(chunk)))
        replies: list[Reply] = []
        while len(replies) < len(chunk):
            replies += [Reply(kind, body) for kind, _, _, body in _messages(self._socket.recv(65536))]
        return replies

    def _exchange_chunk(self, chunk: Sequence[Request]) -> None:
        first = self._sequence + 1
        self._sequence += len(chunk)
        parts = [_pack(each, first + place, NLM_F_REQUEST) for place, each in enumerate(chunk[:-1])]
        parts.append(_pack(chunk[-1], self._sequence, NLM_F_REQUEST | NLM_F_ACK))
        self._socket.sendall(b"".join(parts))
        refusals = []
        for sequence, code, words in self._acknowledgements():
            if code:
                refusals.append((chunk[sequence - first], code, words))
            if sequence == self._sequence:
                break
        if refusals:
            raise refused(*refusals[0])

    def _acknowledgements(self) -> Iterator[tuple[int, int, str]]:
        while True:
            data = self._socket.recv(65536)
            for kind, flags, sequence, body in _messages(data):
                if kind == NLMSG_ERROR:
                    yield sequence, -struct.unpack_from("=i", body)[0], _extack(flags, body)

    def _replies(self, request: Request) -> Iterator[Reply]:
        while True:
            data = self._socket.recv(1 << 20)
            for kind, flags, sequence, body in _messages(data):
                if sequence != self._sequence:
                    continue
                code = -struct.unpack_from("=i", body)[0] if kind in (NLMSG_ERROR, NLMSG_DONE) else 0
                if code:
                    raise refused(request, code, _extack(flags, body))
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return
                yield Reply(kind, body)


def refused(request: Request, code: int, words: str) -> LabError:
    """The error for a request that the kernel answered with errno `code` and, perhaps, a sentence."""
    what = " ".join(map(str, request.what))
    if code == errno.EPERM:
        return NeedsRoot(f"{what}: it needs CAP_NET_ADMIN", kernel=os.strerror(code), mend="run it as root (sudo)")
    if code == errno.EOPNOTSUPP and words == "Unknown device type":
        config = _CONFIG.get(str(request.what[1]), "the device's option")
        mend = f"a kernel with {config} (lsmod, /proc/config.gz)"
        return FeatureMissing(f"{what}: this kernel has no such device", kernel=words, mend=mend)
    return NetworkError(f"{what}: {os.strerror(code)}", kernel=words or os.strerror(code))


def _pack(request: Request, sequence: int, flags: int) -> bytes:
    kind, own_flags, body, _ = request
    return _HEADER.pack(16 + len(body), kind, own_flags | flags, sequence, 0) + body + _PADDING[len(body) & 3]


def _chunks(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    start = size = 0
    for place, request in enumerate(requests):
        size += 20 + len(request.body)
        if size > CHUNK_BYTES and place > start:
            yield requests[start:place]
            start, size = place, 20 + len(request.body)
    if start < len(requests):
        yield requests[start:]


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, sequence, data[at + 16 : at + size]
        at += (size + 3) & ~3


def _extack(flags: int, body: bytes) -> str:
    """The kernel's own sentence, "" when it sent none."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    length = 16 if flags & NLM_F_CAPPED else struct.unpack_from("=I", body, 4)[0]
    for kind, payload in attributes(body[4 + ((length + 3) & ~3) :]):
        if kind == NLMSGERR_ATTR_MSG:
            return payload.rstrip(b"\0").decode(errors="replace")
    return ""
