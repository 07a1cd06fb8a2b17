/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * new_program: gives what comes to a range of ports to one socket.
 *
 * VERDICTS
 *   to a port from `first_port` to `last_port`     the socket of the packet's protocol in `sockets`, if there is one
 *   any other                                      as without the program
 *
 * KNOBS (const volatile, set before load)
 *   first_port 1, last_port 0     the range, both included; as it is, none
 *
 * MAPS
 *   sockets       0: a listening TCP socket, 1: a UDP socket
 *   taken         packets (of TCP: connections) by slot of `sockets`
 *
 * KERNEL 5.10 or later
 *
 * NOT HANDLED
 *   Sockets of the other family: an IPv4 socket takes no IPv6 packets, and the kernel drops what it is given wrongly.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

const volatile __u16 first_port = 1;
const volatile __u16 last_port = 0;

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} taken SEC(".maps");

SEC("sk_lookup")
int new_program(struct bpf_sk_lookup *ctx)
{
	__u32 slot = ctx->protocol == IPPROTO_UDP;
	struct bpf_sock *sk;
	__u64 *count;

	if (ctx->local_port < first_port || ctx->local_port > last_port)
		return SK_PASS;
	sk = bpf_map_lookup_elem(&sockets, &slot);
	if (!sk)
		return SK_PASS;
	if (!bpf_sk_assign(ctx, sk, 0)) {
		count = bpf_map_lookup_elem(&taken, &slot);
		if (count)
			__sync_fetch_and_add(count, 1);
	}
	bpf_sk_release(sk); /* the verifier insists: the lookup took a reference */
	return SK_PASS;
}

char _license[] SEC("license") = "GPL";
