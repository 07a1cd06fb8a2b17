// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Refused by the verifier: a function with more stack than the kernel gives (512 bytes in all). */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

volatile __u32 sink;

static __noinline int deep(__u32 with)
{
	volatile __u8 room[300] = {};

	room[with & 255] = 1;
	return room[sink & 255];
}

SEC("xdp")
int reject_stack(struct xdp_md *ctx)
{
	volatile __u8 room[300] = {};

	room[sink & 255] = 1;
	return deep(room[sink & 127]) ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
