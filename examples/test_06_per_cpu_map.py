"""Each CPU counts for itself, and the reader adds up."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from lab.kernel.bpf import prog_test_run

ROUNDS, FRAME = 100_000, bytes(60)


def run_on(cpu, program, together):
    """This thread alone moves to the CPU and, as soon as all are there, has the kernel run the program in a loop."""
    os.sched_setaffinity(0, {cpu})
    together.wait(timeout=10)
    prog_test_run(program.fd, FRAME, repeat=ROUNDS)


def test_no_packet_is_lost_between_cpus(bpf):
    """All CPUs count at once, without an atomic, and the sum is exact."""
    program = bpf.load("06_per_cpu_map")
    cpus = sorted(os.sched_getaffinity(0))
    together = Barrier(len(cpus))
    with ThreadPoolExecutor(len(cpus)) as pool:
        list(pool.map(lambda cpu: run_on(cpu, program, together), cpus))

    counts = program.maps["counts"][0]
    assert [counts[cpu].packets for cpu in cpus] == [ROUNDS] * len(cpus)
    assert program.maps["counts"].total(0) == {"packets": ROUNDS * len(cpus), "bytes": 60 * ROUNDS * len(cpus)}
