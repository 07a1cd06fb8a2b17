/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * xdp_count_packet, in BCC's C: what it does is said in bpf/xdp_count_packet.bpf.c, of which this is the other flavour.
 *
 * What differs: maps are BCC's macros with methods (clang rewrites them at load time), and the size of the tables is a
 * macro, as there is no object to change before it is loaded. BCC compiles on the machine where it runs; the other
 * flavour is compiled once. Parsing is the same lab/parse.h.
 *
 * MACROS
 *   SOURCES 65536        room in sources4 and sources6, each
 */
#include <linux/in6.h>

#include <lab/parse.h>

#ifndef SOURCES
#define SOURCES 65536
#endif

enum outcome {
	IPV4,
	IPV6,
	NO_ROOM_IPV4,
	NO_ROOM_IPV6,
	TOO_DEEP,
	MALFORMED,
	NOT_IP,
	OUTCOMES,
};

struct count {
	u64 packets;
	u64 bytes;
};

BPF_TABLE("percpu_hash", __be32, struct count, sources4, SOURCES);
BPF_TABLE("percpu_hash", struct in6_addr, struct count, sources6, SOURCES);
BPF_PERCPU_ARRAY(protocols, struct count, 256);
BPF_PERCPU_ARRAY(outcomes, struct count, OUTCOMES);

/* A per-CPU slot: XDP runs in softirq on one CPU, so nobody else writes it now and no atomic is needed. */
static __always_inline int add(struct count *count, u64 bytes)
{
	if (!count)
		return 0;
	count->packets++;
	count->bytes += bytes;
	return 1;
}

static __always_inline enum outcome count_packet(void *data, void *end)
{
	u64 bytes = end - data;
	struct count none = {};
	struct lab_packet pkt;
	enum lab_form form = lab_parse(&pkt, data, end);
	u32 protocol;
	int has_room;

	if (form == LAB_NOT_IP)
		return NOT_IP;
	if (form == LAB_MALFORMED)
		return MALFORMED;
	if (pkt.family == ETH_P_IP) {
		__be32 source = pkt.ip4->saddr;

		has_room = add(sources4.lookup_or_try_init(&source, &none), bytes);
	} else {
		struct in6_addr source = pkt.ip6->saddr;

		has_room = add(sources6.lookup_or_try_init(&source, &none), bytes);
	}
	if (form == LAB_TOO_DEEP)
		return TOO_DEEP;
	protocol = pkt.protocol;
	add(protocols.lookup(&protocol), bytes);
	if (pkt.family == ETH_P_IP)
		return has_room ? IPV4 : NO_ROOM_IPV4;
	return has_room ? IPV6 : NO_ROOM_IPV6;
}

int xdp_count_packet(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 outcome = count_packet(data, end);

	add(outcomes.lookup(&outcome), end - data);
	return XDP_PASS;
}
