"""Which environments may be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.bench.environment import read_environment
from lab.model.likeness import unlike
from lab.model.run import Environment

HERE = Environment(
    kernel="6.18.0",
    cpu="a CPU",
    cpus=2,
    memory_bytes=1 << 32,
    commit="abc",
    dirty=False,
    bpf_jit="on",
    tools={"pytest": "9"},
    settings={"clocksource": "tsc", "mitigation.spectre_v2": "Retpolines", "net.core.rmem_max": "1"},
)


def test_an_environment_is_like_itself() -> None:
    """Nothing forbids to compare two runs in one place, as it is read there."""
    here = read_environment(Path.cwd())
    assert unlike(here, here) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kernel": "5.10.0"}, "kernel: 6.18.0 and 5.10.0"),
        ({"cpu": "another"}, "CPU: a CPU and another"),
        ({"cpus": 4}, "number of CPUs: 2 and 4"),
        ({"bpf_jit": "off"}, "BPF JIT: on and off"),
        ({"settings": {"clocksource": "kvm-clock"}}, "clocksource: tsc and kvm-clock"),
        ({"settings": {"mitigation.spectre_v2": ""}}, "mitigation.spectre_v2: Retpolines and unset"),
    ],
)
def test_what_moves_figures_forbids_to_compare_them(change, sentence: str) -> None:
    """Kernel, processor, JIT, clock and mitigations are named with both of their values."""
    assert unlike(HERE, replace(HERE, **change)) == [sentence]


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "def"},
        {"dirty": True},
        {"tools": {"pytest": "10"}},
        {"memory_bytes": 1},
        {"settings": HERE.settings | {"net.core.rmem_max": "2"}},
        {"settings": {}},
    ],
)
def test_what_moves_no_figure_forbids_nothing(change) -> None:
    """Commits are what is compared; tools, sizes of buffers and what an older run did not tell do not matter."""
    assert unlike(HERE, replace(HERE, **change)) == []


def test_the_environment_tells_what_matters() -> None:
    """Real-time share, JIT hardening, the build and the clock are read, as far as this machine has them."""
    settings = read_environment(Path.cwd()).settings
    assert int(settings["kernel.sched_rt_runtime_us"]) >= -1
    assert settings["net.core.bpf_jit_harden"] in ("0", "1", "2", "")
    assert settings["kernel.build"]
    assert settings["clocksource"]


def test_a_cable_is_like_itself_alone() -> None:
    """Figures over it are not held against those of a veth, nor of another cable; a veth's run says nothing of it."""
    ixgbe, mlx5 = (
        replace(HERE, settings={**HERE.settings, "cable.here": f"eth1, {driver}, 10,000 Mbit/s"})
        for driver in ("ixgbe", "mlx5_core")
    )
    assert unlike(ixgbe, ixgbe) == []
    assert unlike(ixgbe, HERE) == ["cable.here: eth1, ixgbe, 10,000 Mbit/s and a veth"]
    assert len(unlike(ixgbe, mlx5)) == 1
