// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 02_prog_run: a program can be run on a frame of yours, without any network: BPF_PROG_RUN.
 *
 * It swaps the two Ethernet addresses and asks to send the frame back where it came from (XDP_TX). The frame is memory
 * between `data` and `data_end`, both of which the kernel hands over as 32-bit numbers: hence the casts.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data, old;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP; /* shorter than an Ethernet header */
	old = *eth;
	__builtin_memcpy(eth->h_dest, old.h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, old.h_dest, ETH_ALEN);
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
