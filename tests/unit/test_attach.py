"""Attaching, as far as it is decided before the kernel is asked."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

from lab.bpf.attach.hooks import NAMES, hook_name
from lab.bpf.attach.tracing import look_alikes
from lab.bpf.attachment import HOOKS, Attachment, attach
from lab.bpf.names import PROGRAM_TYPES
from lab.errors import AttachError
from lab.model.action import Direction, Mode


@dataclass(frozen=True)
class Loaded:
    """A program that was never loaded: whoever asks for its descriptor fails."""

    type: str
    section: str = "section"
    expected_attach_type: int = 0
    name: str = "program"

    @property
    def fd(self) -> int:
        """Not there."""
        raise AssertionError("the kernel was asked")


def test_every_hook_has_its_file() -> None:
    """Each type is one that exists, and its module says which options it takes."""
    for kind, module in HOOKS.items():
        assert kind in PROGRAM_TYPES
        found = import_module(f"lab.bpf.attach.{module}")
        assert callable(found.attach)
        assert isinstance(found.OPTIONS, frozenset)


@pytest.mark.parametrize("kind", sorted(set(HOOKS) - {"perf_event", "tracepoint", "kprobe"}))
def test_no_hook_takes_whatever_it_is_given(kind: str) -> None:
    """A target of no kind is refused by every hook before the kernel is asked, with a way to mend it."""
    with pytest.raises(AttachError) as refused:
        attach(Loaded(kind), object())
    assert refused.value.mend


@pytest.mark.parametrize("kind", sorted(HOOKS))
def test_an_unknown_option_is_named(kind: str) -> None:
    """No hook swallows a word that it does not know."""
    with pytest.raises(AttachError, match="speed means nothing"):
        attach(Loaded(kind), None, speed=3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sk_lookup", {"mode": Mode.NATIVE}),
        ("tracing", {"direction": Direction.INGRESS}),
        ("sock_ops", {"mode": Mode.GENERIC}),
    ],
)
def test_mode_and_direction_are_only_for_those_that_have_one(kind: str, options: dict[str, Any]) -> None:
    """Mode is for XDP, direction for tc and cgroup_skb."""
    with pytest.raises(AttachError, match="means nothing"):
        attach(Loaded(kind), None, **options)


def test_a_section_that_names_no_event_is_refused() -> None:
    """SEC("tracepoint") alone says nothing; the mend shows both ways to say it."""
    for kind in ("tracepoint", "raw_tracepoint", "kprobe", "tracing"):
        with pytest.raises(AttachError, match="does not say to what") as refused:
            attach(Loaded(kind, section=kind))
        assert "event=" in refused.value.mend


def test_uprobes_and_iterators_say_where_else_to_go() -> None:
    """What the lab leaves to other tools is refused by name."""
    with pytest.raises(AttachError, match="no uprobe"):
        attach(Loaded("kprobe", section="uprobe//bin/bash:readline"))
    with pytest.raises(AttachError, match="is not for here"):
        attach(Loaded("tracing", section="iter/tcp", expected_attach_type=28))


def test_hooks_are_named_as_the_kernel_numbers_them() -> None:
    """Some well-known numbers of enum bpf_attach_type, and one beyond the table."""
    known = {3: "cgroup sock_ops", 10: "cgroup connect4", 23: "tp_btf", 36: "sk_lookup", 37: "xdp", 46: "tcx ingress"}
    assert {number: NAMES[number] for number in known} == known
    assert hook_name(200) == "hook 200"


def test_look_alikes_are_close_names_or_those_that_hold_it() -> None:
    """A slip finds its word, a part finds the whole, and nothing finds nothing."""
    there = ["net_dev_queue", "net_dev_xmit", "inet_sock_set_state"]
    assert "net_dev_queue" in look_alikes("net_dev_qeue", there)
    assert look_alikes("sock_set", there) == "there are inet_sock_set_state"
    assert "list what there is" in look_alikes("zzz", there)


def test_an_attachment_ends_once() -> None:
    """What undoes it runs at the first detach() and never again; update() is refused from then on."""
    ended: list[str] = []
    attachment = Attachment("program", "server/eth0", "native XDP", replace=lambda fd: None)
    attachment.undo.callback(ended.append, "ended")
    with attachment:
        assert not ended
    attachment.detach()
    assert ended == ["ended"]
    with pytest.raises(AttachError, match="or it was detached"):
        attachment.update(Loaded("xdp"))
