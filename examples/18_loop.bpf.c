// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 18_loop: adds up 1 to 500 in two ways, which the kernel verifies at very different prices.
 *
 * Every program must end, so a loop needs a bound. Of a `for` the verifier walks each round, which may exhaust its
 * patience of a million instructions. bpf_loop() (Linux 5.17) calls a function so often as it is told; the verifier
 * looks at that function once. A context carries what the rounds have in common.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define ROUNDS 500

const volatile __u32 step = 1; /* a number that clang does not know, or it would do the sum itself */

__u64 sum;

SEC("xdp")
int by_for(struct xdp_md *ctx)
{
	sum = 0;
	for (__u32 round = 0; round < ROUNDS; round++)
		sum += (round + 1) * step;
	return XDP_PASS;
}

static int add(__u32 round, __u64 *total)
{
	*total += (round + 1) * step;
	return 0; /* 1 would end the loop */
}

SEC("xdp")
int by_helper(struct xdp_md *ctx)
{
	__u64 total = 0;

	bpf_loop(ROUNDS, add, &total, 0);
	sum = total;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
