// SPDX-License-Identifier: GPL-2.0-only
/*
 * 21_dynptr: reads a header through a handle on the frame, and calls a function of the kernel's own: a kfunc.
 *
 * A dynptr (Linux 6.4 for frames) knows where its bytes are and how many; bpf_dynptr_slice() gives a pointer to a piece
 * of them or NULL, so that the one question "is it there?" replaces every comparison with data_end. Kfuncs are kernel
 * functions that programs may call; unlike helpers they are found by name and may differ from kernel to kernel.
 */
#include <vmlinux.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

extern int bpf_dynptr_from_xdp(struct xdp_md *ctx, __u64 flags, struct bpf_dynptr *made) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *from, __u32 at, void *buffer, __u32 buffer__szk) __ksym;

SEC("xdp")
int drop_discard(struct xdp_md *ctx)
{
	struct {
		struct ethhdr eth;
		struct iphdr ip;
		struct udphdr udp;
	} __attribute__((packed)) room, *headers; /* `room` is filled only if the frame's bytes lie in pieces */
	struct bpf_dynptr frame;

	if (bpf_dynptr_from_xdp(ctx, 0, &frame))
		return XDP_ABORTED;
	headers = bpf_dynptr_slice(&frame, 0, &room, sizeof(room));
	if (!headers || headers->ip.protocol != IPPROTO_UDP)
		return XDP_PASS;
	return headers->udp.dest == bpf_htons(9) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
