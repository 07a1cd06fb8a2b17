// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Stands at a hook and hands each packet to the program in targets[slot]: two programs take turns at one place.
 *
 * VERDICTS: those of the target; TC_ACT_SHOT where there is none, counted in `refused`.
 * Oldest kernel: 5.5 (global data).
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define SLOTS 64

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} targets SEC(".maps");

volatile __u32 slot; /* not known to the JIT, which would patch its code for each change */
__u64 refused;

static __always_inline int switched(struct __sk_buff *ctx)
{
	bpf_tail_call(ctx, &targets, slot);
	refused++;
	return TC_ACT_SHOT;
}

/* A tail call goes only between programs that were loaded for one attach type; the lab loads the one that fits. */
SEC("tc")
int switch_tc(struct __sk_buff *ctx)
{
	return switched(ctx);
}

SEC("tc/ingress")
int switch_tc_ingress(struct __sk_buff *ctx)
{
	return switched(ctx);
}

SEC("tc/egress")
int switch_tc_egress(struct __sk_buff *ctx)
{
	return switched(ctx);
}

char _license[] SEC("license") = "GPL";
