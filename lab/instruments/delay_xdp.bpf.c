// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Passes each packet after a known time that nothing hides: see delay.h. Oldest kernel: 5.3. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "delay.h"

SEC("xdp")
int delay_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	delay();
	return XDP_PASS;
}

SEC("xdp.frags")
int delay_xdp_frags(struct xdp_md *ctx)
{
	(void)ctx;
	delay();
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
