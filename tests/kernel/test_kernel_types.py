"""The kernel's own structures, as its BTF describes them."""

from __future__ import annotations

import pytest

from lab.bpf.kernel_types import call_registers, offsets
from lab.errors import LoadError

pytestmark = pytest.mark.needs("btf")


def test_members_are_found_where_the_kernel_has_them() -> None:
    """At the start, in anonymous structures and unions, in nested ones, behind others."""
    found = offsets(
        "sock_common.skc_daddr", "sock_common.skc_rcv_saddr", "sock_common.skc_dport", "net.ns", "net.ns.inum"
    )

    assert (found["sock_common.skc_daddr"], found["sock_common.skc_rcv_saddr"]) == (0, 4)
    assert found["sock_common.skc_dport"] >= 12
    assert found["net.ns.inum"] > found["net.ns"]


def test_what_the_abi_fixes_is_where_it_must_be() -> None:
    """The addresses of an IPv4 header, and IPv6's, which are in an anonymous structure of a union."""
    assert offsets("iphdr.saddr", "iphdr.daddr", "ipv6hdr.saddr", "ipv6hdr.daddr") == {
        "iphdr.saddr": 12,
        "iphdr.daddr": 16,
        "ipv6hdr.saddr": 8,
        "ipv6hdr.daddr": 24,
    }


@pytest.mark.parametrize("path", ("no_such_struct.member", "sock.no_such_member", "sock.sk_err.deeper"))
def test_what_is_not_there_is_named(path: str) -> None:
    """A structure, a member, and a member of what is a number."""
    with pytest.raises(LoadError, match=path):
        offsets(path)


def test_the_registers_of_a_call_are_different_places() -> None:
    """Its number and six arguments; what a function returns is on arm64 where its first argument was."""
    registers = call_registers()

    assert registers.keys() == {"NUMBER", "RESULT", *"012345"}
    assert len({registers[role] for role in ("NUMBER", *"012345")}) == 7
    assert all(offset % 4 == 0 and offset >= 0 for offset in registers.values())
