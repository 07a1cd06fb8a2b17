// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Sends each frame back as it is, after a known time, and loses a known share: causes put in on purpose.
 *
 * VERDICTS: XDP_DROP for 1 frame in `every` (0: for none), XDP_TX for all others.
 * KNOBS: every; rounds, the multiplications that each frame waits for. `seen` counts frames, `lost` those dropped.
 * Oldest kernel: 5.5 (global data).
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "burn.h"

const volatile __u32 every;

__u64 seen;
__u64 lost;

SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	(void)ctx;
	burn();
	seen++; /* without an atomic: it is attached where one CPU takes all frames */
	if (every && seen % every == 0) {
		lost++;
		return XDP_DROP;
	}
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
