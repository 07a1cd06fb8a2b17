"""Each CPU counts for itself, and the reader adds up."""

import os
from concurrent.futures import ThreadPoolExecutor

from scapy.layers.l2 import Ether

ROUNDS = 1000


def run_on(cpu, program, frame):
    """This thread alone moves to the CPU."""
    os.sched_setaffinity(0, {cpu})
    for _ in range(ROUNDS):
        program.run(frame)


def test_no_packet_is_lost_between_cpus(bpf):
    """All CPUs count at once, without an atomic, and the sum is exact."""
    program, frame = bpf.load("06_per_cpu_map"), bytes(Ether() / bytes(46))
    cpus = sorted(os.sched_getaffinity(0))
    with ThreadPoolExecutor(len(cpus)) as pool:
        list(pool.map(lambda cpu: run_on(cpu, program, frame), cpus))

    counts = program.maps["counts"][0]
    assert [counts[cpu].packets for cpu in cpus] == [ROUNDS] * len(cpus)
    assert program.maps["counts"].total(0) == {"packets": ROUNDS * len(cpus), "bytes": 60 * ROUNDS * len(cpus)}
