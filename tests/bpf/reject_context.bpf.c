// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Refused by the verifier: a write to a context that XDP may only read. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int reject_context(struct xdp_md *ctx)
{
	ctx->ingress_ifindex = 1; /* the line that the error must show */
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
