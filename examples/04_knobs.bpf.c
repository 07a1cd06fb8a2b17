// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 04_knobs: drops frames longer than `most_bytes`, and counts them: a constant set before the load, and a variable.
 *
 * A `const volatile` global is read-only memory that user space fills before the load. From then on the verifier takes
 * it for a constant: with most_bytes = 0 the `if` below is removed, and costs nothing. A plain global is a variable
 * that the program and user space share while it runs.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 most_bytes = 0;

__u64 dropped;

SEC("xdp")
int limit_length(struct xdp_md *ctx)
{
	__u32 bytes = ctx->data_end - ctx->data;

	if (most_bytes && bytes > most_bytes) {
		__sync_fetch_and_add(&dropped, 1); /* the program runs on all CPUs at once: += would lose some */
		return XDP_DROP;
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
