// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Refused by the verifier: a loop without an end. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

volatile __u32 forever = 1;

SEC("xdp")
int reject_loop(struct xdp_md *ctx)
{
	while (forever) /* the line that the error must show */
		;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
