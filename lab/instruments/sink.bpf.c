// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Takes every frame away and counts it: the far end of a flood, where a network stack would cost ten times as much.
 *
 * Oldest kernel: 5.5 (global data).
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

__u64 received;

SEC("xdp.frags")
int sink(struct xdp_md *ctx)
{
	(void)ctx;
	/* Frames may come on several CPUs, when a cpumap or the sender spreads them. */
	__sync_fetch_and_add(&received, 1);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
