"""BPF_PROG_RUN: a frame goes in, the verdict and the frame as the program left it come out."""

from scapy.layers.l2 import Ether

from lab import Action


def test_the_addresses_are_swapped(bpf):
    """No namespace, no interface, no traffic: the quickest test that there is."""
    result = bpf.load("02_prog_run").run(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / b"hello")

    assert result.action is Action.XDP_TX
    assert Ether(result.frame).src == "02:00:00:00:00:02"
    assert Ether(result.frame).dst == "02:00:00:00:00:01"
    assert result.frame.endswith(b"hello")
