// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Does nothing: what it costs is the cost of its hook, which every measurement subtracts. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int empty_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

SEC("xdp.frags")
int empty_xdp_frags(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
