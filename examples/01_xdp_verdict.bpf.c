// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 01_xdp_verdict: a program is a function that the kernel calls for each frame, and its return value is the verdict.
 *
 * SEC("xdp") says where: in the network driver, before the kernel has looked at the frame. The verdict is all that
 * these two programs give. XDP_PASS: go on into the kernel. XDP_DROP: forget it, which is the cheapest way to do so.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int let_through(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

/* The kernel offers some of its functions only to programs under the GPL, so each object says its licence. */
char _license[] SEC("license") = "Dual BSD/GPL";
