// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Refused by the verifier: what a map lookup gave is used without a comparison with NULL. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

SEC("xdp")
int reject_null(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u64 *count = bpf_map_lookup_elem(&counts, &key);

	*count += 1; /* the line that the error must show */
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
