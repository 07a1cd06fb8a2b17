// SPDX-License-Identifier: GPL-2.0-only
/*
 * 13_perf_buffer: hands the first 64 bytes of each frame to user space, by the way that came before the ring buffer.
 *
 * Each CPU has a buffer of its own, so that order is lost between CPUs, and a busy one can be full while others are
 * empty. In return the kernel counts what was lost, and copies a piece of the frame by itself: its length goes into the
 * upper half of the flags.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define MOST 64

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32)); /* the CPU */
	__uint(value_size, sizeof(__u32));
} frames SEC(".maps");

SEC("xdp")
int copy_frames(struct xdp_md *ctx)
{
	__u64 bytes = ctx->data_end - ctx->data;
	__u32 stamp = 0x600d;

	if (bytes > MOST)
		bytes = MOST;
	bpf_perf_event_output(ctx, &frames, bytes << 32 | BPF_F_CURRENT_CPU, &stamp, sizeof(stamp));
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
