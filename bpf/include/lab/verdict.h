/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Counts every verdict, packets and bytes, and hands it back: `return lab_verdict(XDP_DROP, bytes);`
 *
 * The counters are a per-CPU array named `verdicts`, one slot a return code of the hook (XDP_ABORTED is 0 ... ). A
 * tc program, whose TC_ACT_UNSPEC is -1, defines LAB_VERDICT_BASE as 1.
 */
#ifndef LAB_VERDICT_H
#define LAB_VERDICT_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#ifndef LAB_VERDICT_BASE
#define LAB_VERDICT_BASE 0
#endif

#define LAB_VERDICTS 16

struct lab_count {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LAB_VERDICTS);
	__type(key, __u32);
	__type(value, struct lab_count);
} verdicts SEC(".maps");

/* A per-CPU slot: XDP and tc run in softirq on one CPU, so nobody else writes it now and no atomic is needed. */
static __always_inline int lab_verdict(int action, __u64 bytes)
{
	__u32 slot = action + LAB_VERDICT_BASE;
	struct lab_count *count = bpf_map_lookup_elem(&verdicts, &slot);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
	return action;
}

#endif /* LAB_VERDICT_H */
