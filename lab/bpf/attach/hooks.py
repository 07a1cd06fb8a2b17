"""The kernel's names of its hooks (enum bpf_attach_type of linux/bpf.h), by number."""

from __future__ import annotations

NAMES = (
    "cgroup ingress", "cgroup egress", "cgroup sock_create", "cgroup sock_ops", "sk_skb stream_parser",
    "sk_skb stream_verdict", "cgroup device", "sk_msg", "cgroup bind4", "cgroup bind6", "cgroup connect4",
    "cgroup connect6", "cgroup post_bind4", "cgroup post_bind6", "cgroup sendmsg4", "cgroup sendmsg6", "lirc_mode2",
    "flow_dissector", "cgroup sysctl", "cgroup recvmsg4", "cgroup recvmsg6", "cgroup getsockopt", "cgroup setsockopt",
    "tp_btf", "fentry", "fexit", "fmod_ret", "lsm", "iter", "cgroup getpeername4", "cgroup getpeername6",
    "cgroup getsockname4", "cgroup getsockname6", "xdp devmap", "cgroup sock_release", "xdp cpumap", "sk_lookup", "xdp",
    "sk_skb verdict", "sk_reuseport", "sk_reuseport/migrate", "perf_event", "kprobe.multi", "lsm_cgroup", "struct_ops",
    "netfilter", "tcx ingress", "tcx egress", "uprobe.multi",
)  # fmt: skip

SK_SKB_STREAM_PARSER, SK_SKB_STREAM_VERDICT, SK_MSG_VERDICT = 4, 5, 7
TRACE_ITER, LSM_CGROUP = 28, 43
PERF_EVENT, TRACE_KPROBE_MULTI, NETFILTER = 41, 42, 45


def hook_name(attach_type: int) -> str:
    """ "cgroup connect4" for 10; the number where the table ends.

    >>> hook_name(10), hook_name(99)
    ('cgroup connect4', 'hook 99')
    """
    return NAMES[attach_type] if attach_type < len(NAMES) else f"hook {attach_type}"
