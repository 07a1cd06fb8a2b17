"""Two numbers change as one."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from lab.kernel.bpf import prog_test_run

ROUNDS, FRAME = 200_000, bytes(64)


def run_on(cpu, program, together):
    """This thread alone moves to the CPU and, as soon as all are there, has the kernel run the program in a loop."""
    os.sched_setaffinity(0, {cpu})
    together.wait(timeout=10)
    prog_test_run(program.fd, FRAME, repeat=ROUNDS)


def test_no_cpu_sees_half_a_change(bpf):
    """All CPUs at once: the sums are exact, and packets and bytes always agreed."""
    program = bpf.load("20_spin_lock")
    cpus = sorted(os.sched_getaffinity(0))
    together = Barrier(len(cpus))
    with ThreadPoolExecutor(len(cpus)) as pool:
        list(pool.map(lambda cpu: run_on(cpu, program, together), cpus))

    total = program.maps["totals"][0]
    assert (total.packets, total.bytes) == (ROUNDS * len(cpus), ROUNDS * len(cpus) * len(FRAME))
    assert program.globals["torn"] == 0
