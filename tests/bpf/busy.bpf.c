// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Passes frames, after `rounds` multiplications. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

const volatile __u32 rounds;

__u64 sink; /* keeps the compiler from dropping the work */

SEC("xdp")
int busy(struct xdp_md *ctx)
{
	__u64 value = ctx->ingress_ifindex | 1;

	for (__u32 round = 0; round < rounds && round < 10000; round++)
		value = value * 6364136223846793005ull + round;
	if (rounds)
		sink = value;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
