"""A table is replaced as a whole."""

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab import Action


def closed(program, ports):
    """Those of the ports that the program closes."""
    return {port for port in ports if program.run(Ether() / IP() / UDP(dport=port)).action is Action.XDP_DROP}


def test_the_table_in_force_is_replaced(bpf):
    """No table, the first, the second: never parts of both."""
    program = bpf.load("09_map_in_map")
    assert closed(program, range(1, 9)) == set()

    for ports in ({1, 2, 3}, {3, 4}):
        table = program.maps["closed"].new_inner()
        table.update(dict.fromkeys(ports, 1))
        program.maps["closed"][0] = table
        assert closed(program, range(1, 9)) == ports
