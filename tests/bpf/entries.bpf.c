// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* A large hash map, for measuring how fast it is written and read. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, __u64);
} entries SEC(".maps");

SEC("xdp")
int look_up(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;

	return bpf_map_lookup_elem(&entries, &key) ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
