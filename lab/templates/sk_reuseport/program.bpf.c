/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * new_program: gives connections in turn to the sockets that wait on one port.
 *
 * VERDICTS
 *   always SK_PASS: the socket in the next slot of `sockets`; where that is empty, or of another port, the one that
 *   the kernel's own hash chooses.
 *
 * KNOBS (const volatile, set before load)
 *   servers 2        how many slots take their turn, 1 to 16
 *
 * MAPS
 *   sockets          slot -> a listening TCP socket or a UDP socket
 *   given            slot -> how often it was chosen
 *
 * KERNEL 5.10 or later
 *
 * NOT HANDLED
 *   What was accepted stays where it is. A datagram is one turn: those of one sender go to several sockets.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define MOST 16

const volatile __u32 servers = 2;

__u32 turn;

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, MOST);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOST);
	__type(key, __u32);
	__type(value, __u64);
} given SEC(".maps");

SEC("sk_reuseport")
int new_program(struct sk_reuseport_md *ctx)
{
	__u32 slot = __sync_fetch_and_add(&turn, 1) % (servers ? servers : 1);
	__u64 *count;

	if (bpf_sk_select_reuseport(ctx, &sockets, &slot, 0))
		return SK_PASS;
	count = bpf_map_lookup_elem(&given, &slot);
	if (count)
		__sync_fetch_and_add(count, 1);
	return SK_PASS;
}

char _license[] SEC("license") = "GPL";
