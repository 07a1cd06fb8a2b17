"""Functions are called, and verified each in its way."""

import pytest
from scapy.layers.l2 import Ether

from lab import Action


@pytest.mark.parametrize(
    ("address", "payload", "action"),
    [
        ("01:00:5e:00:00:01", 100, Action.XDP_DROP),
        ("01:00:5e:00:00:01", 86, Action.XDP_PASS),
        ("02:00:5e:00:00:01", 100, Action.XDP_PASS),
    ],
    ids=["long multicast", "short multicast", "long unicast"],
)
def test_two_functions_decide(bpf, address, payload, action):
    """Each is called once a frame, and what both say counts."""
    program = bpf.load("17_bpf2bpf")

    assert program.run(Ether(dst=address) / bytes(payload)).action is action
    assert program.globals["calls"] == 2
