// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Counts frames by their length in bytes, and drops them. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} lengths SEC(".maps");

SEC("xdp")
int count_lengths(struct xdp_md *ctx)
{
	__u32 length = ctx->data_end - ctx->data;
	__u64 one = 1, *count = bpf_map_lookup_elem(&lengths, &length);

	if (count)
		++*count; /* one CPU sends and so one CPU receives */
	else
		bpf_map_update_elem(&lengths, &length, &one, BPF_ANY);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
