"""Only what the headers name is dropped."""

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.l2 import Ether

from lab import Action

DROPPED, PASSED = Action.XDP_DROP, Action.XDP_PASS


@pytest.mark.parametrize(
    ("packet", "action"),
    [
        (IP() / UDP(dport=9), DROPPED),
        (IP(options=[IPOption_NOP()] * 4) / UDP(dport=9), DROPPED),
        (IP() / UDP(dport=10), PASSED),
        (IP() / UDP(sport=9, dport=10), PASSED),
        (IP() / TCP(dport=9), PASSED),
        (IP(frag=100) / UDP(dport=9), PASSED),
    ],
    ids=["to port 9", "behind IP options", "the port beside", "from port 9", "another protocol", "a later fragment"],
)
def test_the_verdict(bpf, packet, action):
    """Each neighbour of a dropped datagram passes."""
    assert bpf.load("03_parse_header").run(Ether() / packet).action is action


def test_a_frame_cut_short(bpf):
    """Wherever it ends, the program does not read beyond: it would not have been loaded."""
    program, frame = bpf.load("03_parse_header"), bytes(Ether() / IP() / UDP(dport=9))
    assert {program.run(frame[:end]).action for end in range(14, len(frame))} == {PASSED}
    assert program.run(frame).action is DROPPED
