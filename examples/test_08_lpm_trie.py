"""The longest prefix that fits decides."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab import Action


@pytest.mark.parametrize(
    ("source", "action"),
    [
        ("10.9.9.9", Action.XDP_DROP),
        ("10.1.9.9", Action.XDP_PASS),
        ("10.1.2.3", Action.XDP_DROP),
        ("10.1.2.4", Action.XDP_PASS),
        ("11.0.0.1", Action.XDP_PASS),
    ],
    ids=["10/8", "10.1/16 in it", "10.1.2.3/32 in that", "its neighbour", "none fits"],
)
def test_the_longest_prefix_decides(bpf, source, action):
    """An exception within an exception within a rule."""
    program = bpf.load("08_lpm_trie")
    program.maps["verdicts"].update({"10.0.0.0/8": "XDP_DROP", "10.1.0.0/16": "XDP_PASS", "10.1.2.3/32": "XDP_DROP"})

    assert program.run(Ether() / IP(src=source) / UDP()).action is action
