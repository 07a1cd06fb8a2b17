// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Passes each packet after a known time: `rounds` multiplications that wait for each other. Oldest kernel: 5.3. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "burn.h"

SEC("xdp")
int burn_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	burn();
	return XDP_PASS;
}

SEC("xdp.frags")
int burn_xdp_frags(struct xdp_md *ctx)
{
	(void)ctx;
	burn();
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
