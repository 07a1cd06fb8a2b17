// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Stands at a hook and hands each frame to the program in targets[slot]: two programs take turns at one place, and the
 * kernel's XDP dispatcher, which finds one of two attached programs some ns earlier than the other, knows neither.
 *
 * VERDICTS: those of the target; XDP_ABORTED where there is none, counted in `refused`.
 * Oldest kernel: 5.5 (global data).
 */
#include <linux/bpf.h>
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

/* A tail call goes only between programs that were loaded for one section; the lab loads the one that fits. */
SEC("xdp")
int switch_xdp(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &targets, slot);
	refused++;
	return XDP_ABORTED;
}

SEC("xdp.frags")
int switch_xdp_frags(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &targets, slot);
	refused++;
	return XDP_ABORTED;
}

char _license[] SEC("license") = "GPL";
