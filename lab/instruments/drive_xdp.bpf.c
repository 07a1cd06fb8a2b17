// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Feeds an XDP program under BPF_PROG_RUN with the frame of another flow each round.
 *
 * PROG_RUN with repeat hands every round the frame as the round before left it. So this program restores the frame
 * from `template`, gives it the address and port of the next flow, and tail-calls the program in targets[slot]. Its own
 * cost is measured with an empty program in the same place, and subtracted.
 *
 * Flows are visited in the order of a multiplicative hash, so that neighbours in time are strangers in memory: with a
 * million flows each lookup misses the caches, as on a busy router. The IPv4 header checksum is kept right; the
 * transport checksum is not, since programs update it and never check it.
 *
 * Oldest kernel: 5.5 (global data).
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flows.h"

#define SLOTS 512

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} targets SEC(".maps");

volatile __u32 slot; /* of the target that is next to run */
__u64 refused;	     /* rounds that never reached the target */

static __always_inline int refuse(void)
{
	refused++;
	return XDP_ABORTED;
}

static __always_inline int drive(struct xdp_md *ctx)
{
	long grown = (long)ctx->data_end - (long)ctx->data - frame_bytes;

	/* The target encapsulated or trimmed the frame of the round before. */
	if (grown && bpf_xdp_adjust_head(ctx, grown))
		return refuse();
	if (!next_flow((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return refuse();
	bpf_tail_call(ctx, &targets, slot);
	return refuse();
}

/* A tail call goes only between programs that were loaded for one section; the lab loads the one that fits. */
SEC("xdp")
int drive_xdp(struct xdp_md *ctx)
{
	return drive(ctx);
}

SEC("xdp.frags")
int drive_xdp_frags(struct xdp_md *ctx)
{
	return drive(ctx);
}

char _license[] SEC("license") = "GPL";
