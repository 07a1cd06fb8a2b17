// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Generates frames under BPF_PROG_RUN with live frames: makes each the next flow's and sends it out of the interface
 * that the run names as its ingress (XDP_TX).
 *
 * The kernel recycles the pages of live frames with what was written to them, so every frame is made anew.
 * Oldest kernel: 5.18 (BPF_F_TEST_XDP_LIVE_FRAMES).
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flows.h"

__u64 refused; /* frames too short for the offsets: the template and its offsets do not fit each other */

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	if (!next_flow((void *)(long)ctx->data, (void *)(long)ctx->data_end)) {
		refused++;
		return XDP_DROP;
	}
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
