/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * reuseport_balance: shares the connections and datagrams of one port among several server processes.
 *
 * The servers bind one address and port with SO_REUSEPORT. The kernel would choose one by a hash that they cannot
 * influence, and resets what waits at one that closes its socket. Here user space says who gets how much, takes a
 * server out without a refused connection, and what waits at a socket that is closed goes to another server.
 *
 * Three programs, one policy each; load one of them:
 *   by_hash   the 4-tuple decides: a UDP flow stays with its server while the wheel stays. Shares by weight
 *   in_turn   one after the other, by weight in every round. Of UDP, each datagram is a turn
 *   by_cpu    the CPU that the packet came in on: what it does in the kernel and in the server can stay in one cache
 *
 * DECISIONS, for a TCP connection request, a UDP datagram, and a TCP connection whose listener was closed before it
 * was accepted (it is migrated: since Linux 5.14, to a program of section sk_reuseport/migrate):
 *   the wheel's slot has a socket                    that socket. counts[slot].chosen, or .migrated
 *   it has none (its server died), or one that is    the next slots along the wheel, 64 at most. outcomes: SKIPPED,
 *   not of this port and protocol                    one for each slot passed over
 *   none of those either, or there is no wheel       SK_PASS without a choice: the kernel's own hash chooses among
 *                                                    all sockets of the port. outcomes: KERNEL_CHOSE
 *   Nothing is ever refused by this program.
 *
 * MAPS
 *   sockets    slot -> a listening TCP socket, or a UDP socket; the kernel empties the slot of one that is closed
 *   wheels     the wheel: which slot is whose turn. A map in a map, so that a packet sees one wheel, whole, and user
 *              space returns from a change when no packet is left that saw the old one
 *   counts     by slot; per CPU
 *   outcomes   by enum outcome; per CPU
 *   bpf/reuseport_balance.py writes the first two. It makes the wheel so that a server more or less moves no other
 *   flows than it must (by_hash), and that turns are even within a round too (in_turn).
 *
 * KERNEL 5.14 or later (migration). Tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   Connections that were accepted: they stay where they are, and a server that is to end may serve them to the end.
 *   Connected UDP sockets: the kernel hands them their datagrams without asking. Sockets of two groups (IPv4 and IPv6
 *   apart, two ports, TCP and UDP): a program each. One that is bound to [::] takes both families.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define SERVERS 64
#define WHEEL	4096
#define TRIES	64

enum outcome {
	SKIPPED,
	KERNEL_CHOSE,
	OUTCOMES,
};

struct wheel {
	__u32 length; /* 0: there is none */
	__u8 slots[WHEEL];
};

struct choice {
	__u64 chosen;
	__u64 migrated;
};

__u32 turn;

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, SERVERS);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

struct wheel_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct wheel);
} no_wheel SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct wheel_map);
} wheels SEC(".maps") = {
	.values = { &no_wheel },
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SERVERS);
	__type(key, __u32);
	__type(value, struct choice);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, enum outcome);
	__type(value, __u64);
} outcomes SEC(".maps");

/* A per-CPU slot: sockets are chosen with bottom halves disabled, so nobody else writes it now. */
static __always_inline void count(__u32 slot, _Bool migrated)
{
	struct choice *choice = bpf_map_lookup_elem(&counts, &slot);

	if (!choice)
		return;
	if (migrated)
		choice->migrated++;
	else
		choice->chosen++;
}

static __always_inline void happened(enum outcome outcome, __u64 times)
{
	__u64 *slot = bpf_map_lookup_elem(&outcomes, &outcome);

	if (slot)
		*slot += times;
}

static __always_inline const struct wheel *current_wheel(void)
{
	__u32 only = 0;
	void *map = bpf_map_lookup_elem(&wheels, &only);

	return map ? bpf_map_lookup_elem(map, &only) : NULL;
}

/* The socket at this place of the wheel, or the next that lives. */
static __always_inline int choose(struct sk_reuseport_md *ctx, const struct wheel *wheel, __u32 place)
{
	for (__u32 tries = 0; tries < TRIES; tries++) {
		/* A division, which the verifier makes nothing of, and only where the first has died. */
		__u32 at = tries ? (place + tries) % wheel->length : place;
		__u32 slot = wheel->slots[at & (WHEEL - 1)];

		if (!bpf_sk_select_reuseport(ctx, &sockets, &slot, 0)) {
			count(slot, ctx->migrating_sk != NULL);
			if (tries)
				happened(SKIPPED, tries);
			return SK_PASS;
		}
	}
	happened(SKIPPED, TRIES);
	happened(KERNEL_CHOSE, 1);
	return SK_PASS;
}

static __always_inline int no_choice(void)
{
	happened(KERNEL_CHOSE, 1);
	return SK_PASS;
}

SEC("sk_reuseport/migrate")
int by_hash(struct sk_reuseport_md *ctx)
{
	const struct wheel *wheel = current_wheel();

	if (!wheel || !wheel->length)
		return no_choice();
	/* A share of the hash's 32 bits for each place, without a division. */
	return choose(ctx, wheel, (__u64)ctx->hash * wheel->length >> 32);
}

SEC("sk_reuseport/migrate")
int in_turn(struct sk_reuseport_md *ctx)
{
	const struct wheel *wheel = current_wheel();

	if (!wheel || !wheel->length)
		return no_choice();
	/* One counter for all CPUs: the turns are exact, at the price of a cache line that they share. */
	return choose(ctx, wheel, __sync_fetch_and_add(&turn, 1) % wheel->length);
}

SEC("sk_reuseport/migrate")
int by_cpu(struct sk_reuseport_md *ctx)
{
	const struct wheel *wheel = current_wheel();

	if (!wheel || !wheel->length)
		return no_choice();
	return choose(ctx, wheel, bpf_get_smp_processor_id() % wheel->length);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
