// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Refused by the verifier: the packet is read without a comparison with data_end. */
#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int reject_bounds(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	return eth->h_proto ? XDP_PASS : XDP_DROP; /* the line that the error must show */
}

char LICENSE[] SEC("license") = "GPL";
