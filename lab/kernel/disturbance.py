"""What took time from a thread or a CPU, as the kernel counts it: /proc, and the counters of throttling."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
CGROUPS = Path("/sys/fs/cgroup")
CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class CpuTime:
    """Seconds of one CPU since boot, in steps of 10 ms (proc_stat(5)); `busy` is all but idle, iowait and steal."""

    busy: float
    irq: float
    softirq: float
    stolen: float


@dataclass(frozen=True)
class ThreadTime:
    """Of the calling thread, in ns: its time on a CPU, and its time in a queue for one; and its switches and faults."""

    ran_ns: int
    waited_ns: int
    pushed_off: int
    slept: int
    major_faults: int


def cpu_time(cpu: int) -> CpuTime:
    """The line of that CPU in /proc/stat; all zero when it is offline."""
    label = b"cpu%d " % cpu
    with Path("/proc/stat").open("rb") as file:
        for line in file:
            if line.startswith(label):
                user, nice, system, _, _, irq, softirq, stolen = (int(each) * TICK_S for each in line.split()[1:9])
                return CpuTime(user + nice + system + irq + softirq, irq, softirq, stolen)
    return CpuTime(0, 0, 0, 0)


def thread_time() -> ThreadTime:
    """The time in a queue is 0 on a kernel without CONFIG_SCHED_INFO."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    waited = 0
    with suppress(OSError, ValueError, IndexError):
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return ThreadTime(time.thread_time_ns(), waited, usage.ru_nivcsw, usage.ru_nvcsw, usage.ru_majflt)


def device_interrupts() -> dict[int, int]:
    """How many interrupts of devices each CPU that is online has served since boot, by /proc/interrupts.

    Timers, rescheduling and calls between CPUs, which have names and no numbers, are not counted.
    """
    with Path("/proc/interrupts").open("rb") as file:
        served = {int(name.removeprefix(b"CPU")): 0 for name in file.readline().split()}
        for line in file:
            label, _, rest = line.partition(b":")
            if label.strip().isdigit():
                for cpu, count in zip(served, rest.split(), strict=False):  # names of the device follow
                    served[cpu] += int(count)
    return served


def softirqs(cpu: int) -> int:
    """How many softirqs of all kinds the CPU has served since boot, those of this thread's own frames too."""
    with Path("/proc/softirqs").open("rb") as file:
        try:
            column = file.readline().split().index(b"CPU%d" % cpu)
        except ValueError:  # offline
            return 0
        return sum(int(line.split()[1 + column]) for line in file)


def throttled_s() -> float:
    """Seconds for which the CPU quota of this process' cgroup stopped it: cpu.stat, of cgroup v2 or v1."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "cpu", "cpu,cpuacct"):
                folder = CGROUPS / controllers / group.lstrip("/")
                with suppress(OSError):
                    found = dict(each.split() for each in (folder / "cpu.stat").read_text().splitlines())
                    if throttled := int(found.get("throttled_usec", 0)) * 1000 + int(found.get("throttled_time", 0)):
                        return throttled / 1e9
    return 0.0


def too_hot(cpu: int) -> int:
    """How often the CPU slowed down because of its temperature; 0 where that is not told, as in virtual machines."""
    with suppress(OSError, ValueError):
        return int((CPUS / f"cpu{cpu}/thermal_throttle/core_throttle_count").read_text())
    return 0


def frequency_khz(cpu: int) -> int | None:
    """What the CPU runs at just now; None where that is not told, as in virtual machines."""
    with suppress(OSError, ValueError):
        return int((CPUS / f"cpu{cpu}/cpufreq/scaling_cur_freq").read_text())
    return None
