"""Whether figures of two environments may be held against each other."""

from __future__ import annotations

from lab.model.run import Environment

FACTS = {"kernel": "kernel", "cpu": "CPU", "cpus": "number of CPUs", "bpf_jit": "BPF JIT"}
"""Of an Environment, with their names for people. Commit, tools and memory move no figure, or are what is compared."""
SETTINGS = (
    "clocksource",
    "cpu.governor",
    "cpu.hypervisor",
    "cpu.isolated",
    "cpu.no_turbo",
    "cpu.nohz_full",
    "cpu.smt",
    "kernel.bpf_stats_enabled",
    "kernel.build",
    "machine",
    "net.core.bpf_jit_harden",
    "net.core.default_qdisc",
    "net.core.dev_weight",
    "net.core.netdev_budget",
    "net.core.netdev_budget_usecs",
    "net.core.netdev_max_backlog",
    "net.ipv4.tcp_congestion_control",
    "transparent_hugepage",
)
MITIGATION = "mitigation."
CABLE = "cable."
"""Of runs on two hosts: the interfaces, and the other host; without them it was a veth."""


def unlike(a: Environment, b: Environment) -> list[str]:
    """What forbids to compare figures of these two, each as a sentence's part; empty when nothing does.

    A setting "timing" says why the figures of an environment are like no others (an emulated processor).
    What only one of them tells (an older run knew fewer settings) forbids nothing.

    >>> unlike(here, replace(here, kernel="5.10.0"))
    ['kernel: 6.18.0 and 5.10.0']
    """
    found = [
        f"{label}: {getattr(a, name)} and {getattr(b, name)}"
        for name, label in FACTS.items()
        if getattr(a, name) != getattr(b, name)
    ]
    found += [about.settings["timing"] for about in (a, b) if about.settings.get("timing")][:1]
    found += [
        f"{name}: {a.settings.get(name, 'a veth')} and {b.settings.get(name, 'a veth')}"
        for name in sorted({*a.settings, *b.settings})
        if name.startswith(CABLE) and a.settings.get(name) != b.settings.get(name)
    ]
    told = sorted(name for name in {*a.settings} & {*b.settings} if name in SETTINGS or name.startswith(MITIGATION))
    return found + [
        f"{name}: {a.settings[name] or 'unset'} and {b.settings[name] or 'unset'}"
        for name in told
        if a.settings[name] != b.settings[name]
    ]
