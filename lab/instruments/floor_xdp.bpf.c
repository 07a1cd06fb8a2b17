// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What a helper costs that only XDP has: each program calls one TIMES times, `control` does all but that.
 *
 * Oldest kernel: 5.18 (xdp_load_bytes).
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "floor.h"

#define SHIFT 4 /* bytes */

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

__u32 next;

#define PROGRAM(name, ...)                                                                                             \
	SEC("xdp")                                                                                                     \
	int name(struct xdp_md *ctx)                                                                                   \
	{                                                                                                              \
		REPEAT(next, __VA_ARGS__);                                                                             \
		return XDP_PASS;                                                                                       \
	}

PROGRAM(control, asm volatile("" : : "r"(at) : "memory"))

PROGRAM(xdp_load_bytes, {
	struct iphdr ip;

	seen = bpf_xdp_load_bytes(ctx, ETH_HLEN, &ip, sizeof(ip));
})
PROGRAM(xdp_store_bytes, {
	__be32 source = at;

	seen = bpf_xdp_store_bytes(ctx, ETH_HLEN + __builtin_offsetof(struct iphdr, saddr), &source, sizeof(source));
})
/* Each run leaves the frame as it was: TIMES is even. */
PROGRAM(xdp_adjust_head, seen = bpf_xdp_adjust_head(ctx, at & 1 ? SHIFT : -SHIFT))
PROGRAM(xdp_adjust_tail, seen = bpf_xdp_adjust_tail(ctx, at & 1 ? SHIFT : -SHIFT))
PROGRAM(redirect, seen = bpf_redirect(1, 0) != XDP_REDIRECT)
PROGRAM(redirect_map, seen = bpf_redirect_map(&devices, 0, 0) != XDP_REDIRECT)

char _license[] SEC("license") = "GPL";
