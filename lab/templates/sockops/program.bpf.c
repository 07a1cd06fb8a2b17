/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * new_program: counts TCP connections of a cgroup's processes, and their ends.
 *
 * MAPS
 *   counts        `enum what` -> connections
 *
 * KERNEL 5.10 or later
 *
 * NOT HANDLED
 *   Connections that were there before the program was attached: only their end would be seen, and is not asked for.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

enum what {
	OPENED,
	ACCEPTED,
	CLOSED,
	KINDS,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KINDS);
	__type(key, enum what);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline void count(enum what what)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &what);

	if (value)
		__sync_fetch_and_add(value, 1); /* connections live on all CPUs */
}

SEC("sockops")
int new_program(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		count(OPENED);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		count(ACCEPTED);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			count(CLOSED);
		return 1;
	default:
		return 1;
	}
	/* From here on this socket's changes of state are told, too. */
	bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

char _license[] SEC("license") = "GPL";
