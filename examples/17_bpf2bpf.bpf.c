// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 17_bpf2bpf: a program in functions that are called, and not copied into each other.
 *
 * A `static` function is usually inlined; with __noinline it is called, and verified anew at each call, with what is
 * known there. A global one is verified once, by itself, for any argument: the verifier forgets what its caller knew,
 * so it must check its arguments, and large programs load faster. All together may use 512 bytes of stack.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

__u32 calls;

static __noinline int is_group_address(const struct ethhdr *eth)
{
	calls++;
	return eth->h_dest[0] & 1; /* the first bit on the wire: IEEE 802.3, 3.2.3 */
}

__noinline int judge(int group, int bytes)
{
	calls++;
	if (group < 0 || bytes < 0)
		return XDP_ABORTED;
	return group && bytes > 100 ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int drop_long_multicast(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	return judge(is_group_address(eth), ctx->data_end - ctx->data);
}

char _license[] SEC("license") = "Dual BSD/GPL";
