"""What section names mean where libbpf 1.1 does not know, or refuses, them."""

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
OLD_BEGINNINGS = {
    "xdp": ("xdp", 37),
    "tc": ("sched_cls", 0),
    "classifier": ("sched_cls", 0),
    "action": ("sched_act", 0),
}
"""Names like "xdp_pass" and "classifier/in", which libbpf took before 1.0 and many programs still have; 37: BPF_XDP."""


def meaning(section: str, *, unknown_to_libbpf: bool = True) -> tuple[int, int] | None:
    """(program type, expected attach type) of a section of these tables; None where libbpf knows better."""
    name = section.lstrip("?")
    found = None
    while name and not found:
        found = ATTACH_TYPES.get(name)
        name = name.rpartition("/")[0]
    if not found and unknown_to_libbpf:
        beginnings = (kind for start, kind in OLD_BEGINNINGS.items() if section.lstrip("?").startswith(start))
        found = next(beginnings, None)
    return (PROGRAM_TYPES.index(found[0]), found[1]) if found else None
