// SPDX-License-Identifier: GPL-2.0-only
/*
 * 23_sk_lookup: one listening socket takes the connections to every port from 7000 to 7999.
 *
 * bind() knows one port or all. This program sits in a network namespace and is asked which socket a packet is for,
 * before the kernel looks by itself; an established connection is not asked about again. The reference that a look-up
 * of a socket takes must be given back, on every path.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} server SEC(".maps");

SEC("sk_lookup")
int take_a_thousand_ports(struct bpf_sk_lookup *ctx)
{
	__u32 slot = 0;
	struct bpf_sock *sk;

	if (ctx->local_port < 7000 || ctx->local_port > 7999)
		return SK_PASS; /* as without the program */
	sk = bpf_map_lookup_elem(&server, &slot);
	if (!sk)
		return SK_DROP;
	bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	return SK_PASS;
}

char _license[] SEC("license") = "GPL";
