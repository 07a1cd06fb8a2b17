"""One program hands over to another."""

from lab import Action, Topology
from lab.traffic import frames

PAIR = Topology.pair("client", "server")
UDP = 17


def test_a_slot_is_filled_and_emptied(bpf):
    """Datagrams meet the handler only while it is there; pings have none, and go on with the dispatcher."""
    loaded = bpf.load("16_tail_call")
    dispatch = loaded.programs["dispatch"]
    datagram, ping = frames.udp(PAIR, "client", "server", dst_port=9), frames.icmp(PAIR, "client", "server")
    assert dispatch.run(datagram).action is Action.XDP_PASS

    loaded.maps["handlers"][UDP] = loaded.programs["refuse"]
    assert dispatch.run(datagram).action is Action.XDP_DROP
    assert dispatch.run(ping).action is Action.XDP_PASS

    del loaded.maps["handlers"][UDP]
    assert dispatch.run(datagram).action is Action.XDP_PASS
    assert loaded.globals["nobody"] == 3
