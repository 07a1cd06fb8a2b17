/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * xdp_track_flow: who talks to whom, how much, since when, and in which state each TCP connection is.
 *
 * A flow is a 5-tuple in both directions: one entry, with counters for either side. The program watches: it drops
 * nothing, and changes nothing. Attach it where both directions come in (both interfaces of a router): an interface
 * that sees one of them tracks that one, and infers what the other must have said.
 *
 * VERDICTS: XDP_PASS, for every frame. What it does with one:
 *   TCP, UDP, SCTP                 counted in the flow of its addresses, ports and protocol
 *   ICMP and any other protocol    counted in the flow of its addresses and protocol; both ports are 0
 *   first fragment                 counted in its flow, it has ports; its length is its own, not the datagram's
 *   later fragment                 in no flow: it has no ports. outcomes: FRAGMENT
 *   over 6 IPv6 extension headers  in no flow. outcomes: TOO_DEEP
 *   malformed or truncated         in no flow. outcomes: MALFORMED (IP or transport header cut short, lengths that
 *                                  contradict each other); the kernel drops it behind us
 *   TCP flags of no sense          in no flow. outcomes: BAD_FLAGS. Of SYN, FIN, RST and ACK only SYN, SYN+ACK, ACK,
 *                                  FIN+ACK, RST and RST+ACK make sense (SYN+FIN, or none at all, are port scans)
 *   reset of no known flow         in no flow, and opens none. outcomes: STRAY_RESET
 *   new flow, and no slot for it   in no flow. outcomes: NO_SLOT (other CPUs were faster, each time)
 *   ARP, LLDP, a third VLAN tag    in no flow. outcomes: NOT_IP
 *   One or two VLAN tags, IPv4 options and IPv6 extension headers change none of this. A tag is no part of a flow.
 *   Each frame is in a flow or in one outcome; `verdicts` has all. Bytes are whole frames without FCS, as XDP has them.
 *
 * STATES: those of lab/flow_state.h, enum flow_state. A SYN within a connection changes nothing (the peer answers with
 *   a challenge ACK), but after RESET, or after TIME_WAIT with a later sequence number (RFC 6191), it opens a new flow.
 *   Segments that bring nothing new are counted as retransmits (of a reordered one nobody could tell).
 *
 * EVENTS, on the ring buffer `events`: OPENED once for each flow, and one CLOSED_ when it ends, with all that was
 * counted until then: CLOSED_FIN on TIME_WAIT, CLOSED_RST on RESET, CLOSED_IDLE, CLOSED_EVICTED. `totals` counts them,
 * and EVENT_LOST those that the ring buffer had no room for: OPENED - CLOSED_... is what is open now.
 *
 * AGEING: a flow silent for longer than the time of its state has ended. Its next packet closes it and opens a new one;
 * the program `sweep`, run now and then by user space (bpf/xdp_track_flow.py), ends those that stay silent.
 *
 * PRESSURE: when no slot is free, SAMPLE flows in a row, the next ones each time, are looked at. One that has ended
 * makes room, or else the longest silent one that was never answered, or else the longest silent of all. The last two
 * are counted as CLOSED_EVICTED, and their events say what they had counted.
 *
 * KNOBS (const volatile, set before load)
 *   flow_count 65536, chain_count 131072   max_entries of `flows` and `given_back`, and of `chains`; to change them,
 *                        take what sized(flows) of bpf/xdp_track_flow.py says
 *   hash_seed 0          a secret number keeps strangers from filling one chain on purpose; sized() takes a random one
 *   one_way_idle_ms 30000, two_way_idle_ms 120000
 *   opening_idle_ms 60000 (SYN_...), established_idle_ms 3600000, closing_idle_ms 120000 (FIN_WAIT to LAST_ACK),
 *   time_wait_idle_ms 60000, reset_idle_ms 10000
 *
 * MAPS
 *   flows         the flows, an array; state FREE: none. To read them: bpf/xdp_track_flow.py, flows(maps)
 *   chains        hash of a key -> the first of the flows with that hash, linked
 *   guards, pools, given_back   locks of the chains, slots never used, slots used before
 *   events        ring buffer of struct event
 *   totals        by enum happening; per CPU
 *   outcomes      packets and bytes in no flow, by enum outcome; per CPU
 *   verdicts      packets and bytes by XDP verdict; per CPU
 *
 * SEVERAL CPUs: either side of a flow has its own counters, added to atomically; what a side has sent is written by its
 * own packets alone. Chains are read without a lock and changed under one; who finds a chain changed looks again. A
 * packet that another CPU counts in the very instant in which its flow ends is lost with it.
 *
 * KERNEL 5.8 or later by the helpers it calls (ring buffer); tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   Reassembly; TCP sequence windows (a forged segment in a connection is believed, a far reset is not); TCP Fast
 *   Open's data (the SYN is tracked, its data counts as bytes alone); tunnels (the outer flow is tracked);
 *   the connection behind an ICMP error; frames larger than one buffer (xdp.frags).
 */
#include <stdbool.h>
#include <linux/bpf.h>

#include <lab/clock.h>
#include <lab/ends.h>
#include <lab/flow_state.h>
#include <lab/jhash.h>
#include <lab/parse.h>
#include <lab/verdict.h>

#define FLOWS	      65536
#define LONGEST_CHAIN 16
#define GUARDS	      1024
#define SAMPLE	      16
#define SWEPT	      512
#define ATTEMPTS      4
#define NO_SLOTS      0xffffffff
#define NS_PER_MS     1000000ULL

const volatile __u32 flow_count = FLOWS;
const volatile __u32 chain_count = 2 * FLOWS;
const volatile __u32 hash_seed = 0;
const volatile __u32 one_way_idle_ms = 30000;
const volatile __u32 two_way_idle_ms = 120000;
const volatile __u32 opening_idle_ms = 60000;
const volatile __u32 established_idle_ms = 3600000;
const volatile __u32 closing_idle_ms = 120000;
const volatile __u32 time_wait_idle_ms = 60000;
const volatile __u32 reset_idle_ms = 10000;

enum happening {
	OPENED,
	CLOSED_FIN,
	CLOSED_RST,
	CLOSED_IDLE,
	CLOSED_EVICTED,
	EVENT_LOST,
	HAPPENINGS,
};

enum outcome {
	NOT_IP,
	FRAGMENT,
	TOO_DEEP,
	MALFORMED,
	BAD_FLAGS,
	STRAY_RESET,
	NO_SLOT, /* other CPUs were faster ATTEMPTS times, or the chain is longer than LONGEST_CHAIN */
	OUTCOMES,
};

/* The end with the lower address (then port) comes first, so that both directions have one key. */
struct flow_key {
	struct in6_addr lower; /* IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2) */
	struct in6_addr upper;
	__be16 lower_port;
	__be16 upper_port;
	__u32 protocol;
};

struct side {
	__u64 packets;
	__u64 bytes;
	struct tcp_side tcp;
};

/* Two cache lines: what a packet is compared with, and what it adds to. */
struct flow {
	struct flow_key key;
	__u64 first_ns; /* CLOCK_MONOTONIC, as of the tick before */
	__u64 last_ns;
	__u32 next; /* of its chain */
	enum flow_state state : 8;
	__u8 opener; /* the side that sent the first packet: 0 lower, 1 upper */
	__u8 ended;  /* its CLOSED_ event is out */
	__u8 reserved;
	struct side sides[2];
};

struct event {
	enum happening kind;
	__u32 reserved;
	struct flow flow;
};
const struct event *kept_for_btf __attribute__((unused));

/* Flows whose keys have one hash. */
struct chain {
	__u32 first;
	__u32 changes; /* another number: some flow came, went or began anew since */
};

struct guard {
	struct bpf_spin_lock lock;
};

/* Which slots were never used, and, once all were, which are looked at when one is needed. */
struct pool {
	struct bpf_spin_lock lock;
	__u32 used;
	__u32 hand;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * FLOWS);
	__type(key, __u32);
	__type(value, struct chain);
} chains SEC(".maps");

/* One for many chains: a lock in each would double them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GUARDS);
	__type(key, __u32);
	__type(value, struct guard);
} guards SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pool);
} pools SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, FLOWS);
	__type(value, __u32);
} given_back SEC(".maps");

/* Mappable, because that puts the first entry at the start of a page: each entry is two cache lines, and not three. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FLOWS);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HAPPENINGS);
	__type(key, enum happening);
	__type(value, __u64);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, enum outcome);
	__type(value, struct lab_count);
} outcomes SEC(".maps");

/* What a packet says of its flow. */
struct news {
	struct flow_key key;
	__u64 now_ns;
	__u32 bytes; /* of the frame */
	struct tcp_news tcp;
	__u8 direction; /* 0: from the lower end */
};

/* Where a flow is, or could be. */
struct place {
	struct chain *chain;
	struct guard *guard;
	struct flow *flow;
	__u32 slot;    /* of the flow */
	__u32 changes; /* of the chain when it was looked at */
};

/* ---- Counting ---- */

static __always_inline int untracked(enum outcome outcome, __u64 bytes)
{
	/* A per-CPU slot: XDP runs in softirq, so nobody else writes it now. */
	struct lab_count *count = bpf_map_lookup_elem(&outcomes, &outcome);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
	return lab_verdict(XDP_PASS, bytes);
}

static __always_inline void count(enum happening kind)
{
	__u64 *times = bpf_map_lookup_elem(&totals, &kind);

	if (times)
		*times += 1;
}

static __noinline int announce(enum happening kind, const struct flow *flow)
{
	struct event *event;

	if (!flow)
		return 0;
	count(kind);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count(EVENT_LOST);
		return 0;
	}
	event->kind = kind;
	event->reserved = 0;
	event->flow = *flow;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* ---- What a packet says ---- */

static __always_inline bool read_key(const struct lab_packet *pkt, struct news *news)
{
	struct flow_key *key = &news->key;
	struct in6_addr source, dest;

	if (!lab_read_ends(pkt, &source, &dest))
		return false;
	news->direction = lab_is_upper(&source, &dest, pkt->sport, pkt->dport);
	key->lower = news->direction ? dest : source;
	key->upper = news->direction ? source : dest;
	key->lower_port = news->direction ? pkt->dport : pkt->sport;
	key->upper_port = news->direction ? pkt->sport : pkt->dport;
	key->protocol = pkt->protocol;
	return true;
}

/* OUTCOMES when the packet belongs into a flow, else why not. */
static __always_inline enum outcome read_packet(struct lab_packet *pkt, void *data, void *end, struct news *news)
{
	switch (lab_parse(pkt, data, end)) {
	case LAB_OK:
		break;
	case LAB_NOT_IP:
		return NOT_IP;
	case LAB_TOO_DEEP:
		return TOO_DEEP;
	default:
		return MALFORMED;
	}
	if (pkt->later_fragment)
		return FRAGMENT;
	if (lab_parse_ports(pkt) != LAB_OK || !read_key(pkt, news))
		return MALFORMED;
	if (pkt->protocol == IPPROTO_UDP && !is_whole_udp(pkt))
		return MALFORMED;
	if (pkt->protocol != IPPROTO_TCP)
		return OUTCOMES;
	if (!read_tcp(pkt, &news->tcp))
		return MALFORMED;
	return makes_sense(news->tcp.flags) ? OUTCOMES : BAD_FLAGS;
}

/* ---- TCP ---- */

/* ---- A packet and its flow ---- */

static __always_inline void follow(struct flow *flow, const struct news *news)
{
	struct side *mine = &flow->sides[news->direction & 1];
	struct side *other = &flow->sides[!news->direction];
	enum flow_state state;

	/* Atomic: a receive queue may hand one direction to two CPUs. */
	__sync_fetch_and_add(&mine->packets, 1);
	__sync_fetch_and_add(&mine->bytes, news->bytes);
	/* Written only when it changes: the two directions may run on two CPUs. */
	if (flow->last_ns != news->now_ns)
		flow->last_ns = news->now_ns;
	if (flow->key.protocol == IPPROTO_TCP)
		state = follow_tcp(flow->state, &mine->tcp, &other->tcp, &news->tcp);
	else
		state = other->packets ? TWO_WAY : ONE_WAY;
	if (flow->state != state)
		flow->state = state;
}

static __always_inline __u32 idle_limit_ms(enum flow_state state)
{
	if (state == ESTABLISHED)
		return established_idle_ms;
	if (state == TWO_WAY)
		return two_way_idle_ms;
	if (state == ONE_WAY)
		return one_way_idle_ms;
	if (state < ESTABLISHED)
		return opening_idle_ms;
	if (state < TIME_WAIT)
		return closing_idle_ms;
	return state == TIME_WAIT ? time_wait_idle_ms : reset_idle_ms;
}

/* Signed: another CPU's tick may have been a little later than this one's. */
static __always_inline bool is_stale(const struct flow *flow, __u64 now_ns)
{
	return (__s64)(now_ns - flow->last_ns) > (__s64)(idle_limit_ms(flow->state) * NS_PER_MS);
}

static __always_inline bool begins_anew(const struct flow *flow, const struct news *news)
{
	const struct side *mine = &flow->sides[news->direction & 1];

	return flow->key.protocol == IPPROTO_TCP && tcp_begins_anew(flow->state, &mine->tcp, &news->tcp);
}

/* ---- The table: chains of flows, linked by slot number + 1 (0 ends a chain) ---- */

static __always_inline struct flow *flow_at(__u32 slot)
{
	return bpf_map_lookup_elem(&flows, &slot);
}

static __always_inline bool is_same(const struct flow_key *a, const struct flow_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

/* The chain that a key belongs to, its lock, and how often it has changed until now; false without such a chain. */
static __always_inline bool find_chain(struct place *place, const struct flow_key *key)
{
	__u32 hash = lab_jhash((const __u32 *)key, sizeof(*key) / 4, hash_seed);
	__u32 index = ((__u64)hash * chain_count) >> 32; /* as even as a modulo, without the division */
	__u32 guard = index % GUARDS;

	place->chain = bpf_map_lookup_elem(&chains, &index);
	place->guard = bpf_map_lookup_elem(&guards, &guard);
	if (!place->chain || !place->guard)
		return false;
	place->changes = *(volatile __u32 *)&place->chain->changes;
	return true;
}

/* The place of a packet's flow, which is NULL when there is none. False when nobody could say. */
static __always_inline bool look_up(struct place *place, const struct news *news)
{
	__u32 link;

	place->flow = NULL;
	if (!find_chain(place, &news->key))
		return false;
	link = *(volatile __u32 *)&place->chain->first;
	for (__u64 step = 0; step < LONGEST_CHAIN; step++) {
		struct flow *flow;

		if (!link)
			return true;
		flow = flow_at(link - 1);
		if (!flow)
			return false;
		if (is_same(&flow->key, &news->key)) {
			place->flow = flow;
			place->slot = link - 1;
			return true;
		}
		link = flow->next;
	}
	return false;
}

/*
 * Takes a flow out of its chain, if it is silent for too long or anyway; its slot is the caller's then. Not static: the
 * verifier proves it once, for any numbers, and not again on every path to it.
 */
__noinline int take_out(__u32 slot, __u64 now_ns, bool anyway)
{
	struct flow *flow = flow_at(slot), *before;
	struct flow_key key;
	struct place place;
	bool taken;
	__u32 *link;

	if (!flow || flow->state == FREE)
		return 0;
	key = flow->key;
	if (!find_chain(&place, &key))
		return 0;
	link = &place.chain->first;
	for (__u64 step = 0; step < LONGEST_CHAIN && *link != slot + 1; step++) {
		before = flow_at(*link - 1);
		if (!before)
			return 0;
		link = &before->next;
	}

	bpf_spin_lock(&place.guard->lock);
	/* Looked at again: it may have gone, or been heard from, since. */
	taken = place.chain->changes == place.changes && *link == slot + 1 && (anyway || is_stale(flow, now_ns));
	if (taken) {
		*link = flow->next;
		place.chain->changes++;
	}
	bpf_spin_unlock(&place.guard->lock);
	if (!taken)
		return 0;
	if (!flow->ended)
		announce(is_stale(flow, now_ns) ? CLOSED_IDLE : CLOSED_EVICTED, flow);
	flow->state = FREE;
	return 1;
}

/* What a flow is worth when a slot is needed: one that ended, then one never answered, then others; and its age. */
static __always_inline __u64 worth(const struct flow *flow, __u64 now_ns)
{
	__u64 rank = 2;

	if (flow->state == FREE)
		return ~0ULL;
	if (flow->ended || is_stale(flow, now_ns))
		rank = 0;
	else if (flow->state < ESTABLISHED && flow->state != TWO_WAY)
		rank = 1;
	return rank << 62 | flow->last_ns;
}

/* The least worthy of SAMPLE flows in a row. */
__noinline __u32 least_worthy(__u32 first, __u64 now_ns)
{
	__u64 least = ~0ULL;
	__u32 chosen = first;

	for (__u32 step = 0; step < SAMPLE; step++) {
		struct flow *flow = flow_at(first + step);
		__u64 value = flow ? worth(flow, now_ns) : least;

		if (value < least) {
			least = value;
			chosen = first + step;
		}
	}
	return chosen;
}

/* A slot for a new flow: one given back, or one never used, or one of a flow that must go. NO_SLOTS: none now. */
static __noinline __u32 find_slot(__u64 now_ns)
{
	__u32 only = 0, slot = NO_SLOTS, first;
	struct pool *pool = bpf_map_lookup_elem(&pools, &only);

	if (!bpf_map_pop_elem(&given_back, &slot))
		return slot;
	if (!pool)
		return NO_SLOTS;
	bpf_spin_lock(&pool->lock);
	first = pool->hand;
	slot = pool->used;
	if (slot < flow_count) {
		pool->used++;
	} else {
		pool->hand += SAMPLE;
		if (pool->hand >= flow_count)
			pool->hand = 0;
	}
	bpf_spin_unlock(&pool->lock);
	if (slot < flow_count)
		return slot;
	slot = least_worthy(first, now_ns);
	return take_out(slot, now_ns, true) ? slot : NO_SLOTS;
}

/* ---- Flows begin, go on and end ---- */

static __always_inline void begin(struct flow *flow, const struct news *news)
{
	__u32 next = flow->next;

	__builtin_memset(flow, 0, sizeof(*flow));
	flow->next = next;
	flow->key = news->key;
	flow->first_ns = news->now_ns;
	/* Who answers a SYN that was not seen did not open the connection. */
	flow->opener = news->direction ^ ((news->tcp.flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK));
	follow(flow, news);
}

/* Puts a new flow, which nobody else knows yet, at the head of its chain; false when the chain has changed. */
static __always_inline bool link_in(struct place *place, struct flow *flow, __u32 slot)
{
	bool unchanged;

	bpf_spin_lock(&place->guard->lock);
	unchanged = place->chain->changes == place->changes;
	if (unchanged) {
		flow->next = place->chain->first;
		place->chain->first = slot + 1;
		place->chain->changes++;
	}
	bpf_spin_unlock(&place->guard->lock);
	return unchanged;
}

/* The connection has ended; two CPUs may find that out at once. */
static __noinline int end(struct guard *guard, struct flow *flow)
{
	bool first;

	if (!guard || !flow)
		return 0;
	bpf_spin_lock(&guard->lock);
	first = !flow->ended;
	flow->ended = 1;
	bpf_spin_unlock(&guard->lock);
	if (first)
		announce(flow->state == RESET ? CLOSED_RST : CLOSED_FIN, flow);
	return 0;
}

/* The packet in its flow; false when it has none that goes on. */
static __always_inline bool goes_on(struct place *place, const struct news *news)
{
	struct flow *flow = place->flow;

	if (!flow || is_stale(flow, news->now_ns) || begins_anew(flow, news))
		return false;
	follow(flow, news);
	if (flow->state >= TIME_WAIT && !flow->ended)
		end(place->guard, flow);
	return true;
}

static __always_inline int give_back(__u32 slot, int verdict)
{
	if (slot != NO_SLOTS)
		bpf_map_push_elem(&given_back, &slot, 0);
	return verdict;
}

/* The first packet of a flow; a call of its own, so that the code of all later ones stays small. */
static __noinline int open_flow(const struct news *news)
{
	__u32 slot = NO_SLOTS;
	struct place place;

	for (__u64 attempt = 0; attempt < ATTEMPTS; attempt++) {
		struct flow *flow;

		if (!look_up(&place, news))
			break;
		/* Another CPU may have opened it just now. */
		if (goes_on(&place, news))
			return give_back(slot, lab_verdict(XDP_PASS, news->bytes));
		if (news->tcp.flags & TCP_RST)
			return give_back(slot, untracked(STRAY_RESET, news->bytes));
		/* Looked up again behind each of these: they may have changed this chain. */
		if (place.flow) {
			if (take_out(place.slot, news->now_ns, true))
				give_back(place.slot, 0);
			continue;
		}
		if (slot == NO_SLOTS) {
			slot = find_slot(news->now_ns);
			continue;
		}
		flow = flow_at(slot);
		if (!flow)
			break;
		begin(flow, news);
		if (link_in(&place, flow, slot)) {
			announce(OPENED, flow);
			return lab_verdict(XDP_PASS, news->bytes);
		}
		flow->state = FREE;
	}
	return give_back(slot, untracked(NO_SLOT, news->bytes));
}

SEC("xdp")
int xdp_track_flow(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct lab_packet pkt;
	struct news news = {};
	struct place place;
	enum outcome outcome;

	outcome = read_packet(&pkt, data, data_end, &news);
	if (outcome != OUTCOMES)
		return untracked(outcome, data_end - data);
	news.bytes = data_end - data;
	news.now_ns = lab_now_ns();
	if (look_up(&place, &news) && goes_on(&place, &news))
		return lab_verdict(XDP_PASS, news.bytes);
	return open_flow(&news);
}

/* ---- Ageing ---- */

__u32 sweep_at;

/* Not static, for the same reason as take_out(). */
__noinline int end_stale(__u32 slot, __u64 now_ns)
{
	struct flow *flow = flow_at(slot);

	if (flow && flow->state != FREE && is_stale(flow, now_ns) && take_out(slot, now_ns, false))
		give_back(slot, 0);
	return 0;
}

/* Ends those of the next SWEPT flows that were silent for too long. User space runs it by BPF_PROG_RUN. */
SEC("xdp")
int sweep(struct xdp_md *ctx __attribute__((unused)))
{
	__u64 now_ns = lab_now_ns();
	__u32 start = sweep_at;

	for (__u32 step = 0; step < SWEPT; step++)
		end_stale(start + step, now_ns); /* there is none beyond the last */
	sweep_at = start + SWEPT < flow_count ? start + SWEPT : 0;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
