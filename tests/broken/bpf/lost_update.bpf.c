// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * lost_update: counts frames in one place for all CPUs, and is broken: each CPU adds to a copy of its own that it read
 * before, and writes that back over what another CPU has written meanwhile.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} copy SEC(".maps");

SEC("xdp")
int lost_update(struct xdp_md *ctx)
{
	__u64 *count, *own;
	__u32 first = 0;

	count = bpf_map_lookup_elem(&frames, &first);
	own = bpf_map_lookup_elem(&copy, &first);
	if (!count || !own)
		return XDP_ABORTED;
	*own += 1;
	*count = *own;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
