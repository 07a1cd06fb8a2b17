"""Section names that libbpf 1.1 does not know, with the type and attach type that they mean."""

from __future__ import annotations

from lab.bpf.names import PROGRAM_TYPES

ATTACH_TYPES = {
    "tc/ingress": ("sched_cls", 46),  # BPF_TCX_INGRESS, Linux 6.6
    "tc/egress": ("sched_cls", 47),
    "tcx/ingress": ("sched_cls", 46),
    "tcx/egress": ("sched_cls", 47),
    "netkit/primary": ("sched_cls", 54),  # BPF_NETKIT_PRIMARY, Linux 6.7
    "netkit/peer": ("sched_cls", 55),
    "netfilter": ("netfilter", 45),  # BPF_NETFILTER, Linux 6.4
    "uprobe.multi": ("kprobe", 48),  # BPF_TRACE_UPROBE_MULTI, Linux 6.6
    "uretprobe.multi": ("kprobe", 48),
    "kprobe.session": ("kprobe", 56),  # BPF_TRACE_KPROBE_SESSION, Linux 6.10
    "sk_skb/verdict": ("sk_skb", 38),  # BPF_SK_SKB_VERDICT, Linux 5.13
    "struct_ops.s": ("struct_ops", 44),  # BPF_STRUCT_OPS
}


def meaning(section: str) -> tuple[int, int] | None:
    """(program type, expected attach type) of a section of this table; None where libbpf knows better."""
    name = section.lstrip("?")
    while name:
        if name in ATTACH_TYPES:
            kind, attach_type = ATTACH_TYPES[name]
            return PROGRAM_TYPES.index(kind), attach_type
        name = name.rpartition("/")[0]
    return None
