"""A full hash refuses, a full LRU hash forgets."""

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

ROOM, PORTS = 128, range(1, 1001)


def test_what_a_full_table_does(bpf):
    """Of 1,000 keys one table keeps the first 128; the other takes each, and has the newest."""
    program = bpf.load("07_lru_map")
    template = bytearray(bytes(Ether() / IP() / UDP(sport=0)))
    for port in PORTS:
        template[34:36] = port.to_bytes(2, "big")
        program.run(bytes(template))

    assert sorted(program.maps["refusing"]) == list(PORTS[:ROOM])
    assert program.globals["refused"] == len(PORTS) - ROOM
    assert PORTS[-1] in program.maps["forgetting"]
    assert len(program.maps["forgetting"]) <= ROOM
