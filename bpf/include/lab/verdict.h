/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Counts every verdict, packets and bytes, and hands it back: `return lab_verdict(XDP_DROP, bytes);`
 *
 * The counters are a per-CPU array named `verdicts`, one slot a return code of the hook, keyed by an enum so that a
 * reader can ask for "XDP_DROP" by name. A tc program defines LAB_HOOK_TC first, and includes this header before
 * linux/pkt_cls.h: there the names are macros, here they are an enum's, one higher since TC_ACT_UNSPEC is -1.
 */
#ifndef LAB_VERDICT_H
#define LAB_VERDICT_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#ifdef LAB_HOOK_TC
#ifdef __LINUX_PKT_CLS_H
#error "include lab/verdict.h before linux/pkt_cls.h"
#endif
enum tc_action {
	TC_ACT_UNSPEC,
	TC_ACT_OK,
	TC_ACT_RECLASSIFY,
	TC_ACT_SHOT,
	TC_ACT_PIPE,
	TC_ACT_STOLEN,
	TC_ACT_QUEUED,
	TC_ACT_REPEAT,
	TC_ACT_REDIRECT,
};
#define LAB_VERDICT_KEY	 enum tc_action
#define LAB_VERDICTS	 9
#define LAB_VERDICT_BASE 1
#else
#define LAB_VERDICT_KEY	 enum xdp_action
#define LAB_VERDICTS	 5
#define LAB_VERDICT_BASE 0
#endif

struct lab_count {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LAB_VERDICTS);
	__type(key, LAB_VERDICT_KEY);
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
