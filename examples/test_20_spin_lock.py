"""Two numbers change as one."""

import os
from concurrent.futures import ThreadPoolExecutor

ROUNDS, FRAME = 2000, bytes(64)


def run_on(cpu, program):
    """This thread alone moves to the CPU."""
    os.sched_setaffinity(0, {cpu})
    for _ in range(ROUNDS):
        program.run(FRAME)


def test_no_cpu_sees_half_a_change(bpf):
    """All CPUs at once: the sums are exact, and packets and bytes always agreed."""
    program = bpf.load("20_spin_lock")
    cpus = sorted(os.sched_getaffinity(0))
    with ThreadPoolExecutor(len(cpus)) as pool:
        list(pool.map(lambda cpu: run_on(cpu, program), cpus))

    total = program.maps["totals"][0]
    assert (total.packets, total.bytes) == (ROUNDS * len(cpus), ROUNDS * len(cpus) * len(FRAME))
    assert program.globals["torn"] == 0
