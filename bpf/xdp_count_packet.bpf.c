/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * xdp_count_packet: packets and bytes by source address and by protocol, counted on each CPU for itself.
 *
 * It watches: every frame passes, and none is changed. This is the CO-RE flavour; bpf/xdp_count_packet.bcc.c is the
 * same program in BCC's C. Both parse with lab/parse.h and have the same maps, so bpf/xdp_count_packet.py reads both.
 *
 * VERDICTS: XDP_PASS, for every frame. Where one is counted:
 *   IPv4, IPv6                     its source, its protocol, outcome IPV4 or IPV6
 *   source is new, map is full     its protocol, outcome NO_ROOM_IPV4 or NO_ROOM_IPV6: all but the source
 *   first or later fragment        as any packet; each fragment is one, with the protocol of its datagram. (Of IPv6 the
 *                                  Fragment header names it: an extension header where there are more behind it)
 *   over 6 IPv6 extension headers  its source and outcome TOO_DEEP; its protocol is out of reach
 *   malformed or truncated         outcome MALFORMED alone: an IP header cut short, lengths that contradict each other;
 *                                  the kernel drops it behind us, and what it claims is no source
 *   ARP, LLDP, a third VLAN tag    outcome NOT_IP alone
 *   One or two VLAN tags, IPv4 options and IPv6 extension headers change none of this. Nothing beyond the IP header is
 *   looked at. Each frame is in one outcome, so they add up to all that came. Bytes are whole frames without FCS.
 *
 * MAPS
 *   sources4      IPv4 source -> packets and bytes; a slot a CPU. 65536 sources, load(max_entries=) for more
 *   sources6      IPv6 source -> the same
 *   protocols     by IP protocol number (the last next header of IPv6); a slot a CPU
 *   outcomes      by enum outcome; a slot a CPU
 *   A source takes 16 bytes a CPU and about 70 more. User space empties a full map: bpf/xdp_count_packet.py, clear().
 *
 * KERNEL 5.6 or later (tables read by batch); tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   Transport headers (a TCP header cut short counts as TCP). What is inside a tunnel: its outer source counts. VLAN
 *   tags are no part of a source. Sources are not verified: whoever forges them fills the map, which costs everybody
 *   else nothing but new sources their place. Frames of several buffers (an MTU beyond a page): the kernel refuses to
 *   attach natively. What the card itself dropped is not seen.
 */
#include <linux/bpf.h>
#include <linux/in6.h>

#include <lab/parse.h>

#define SOURCES 65536

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
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, SOURCES);
	__type(key, __be32);
	__type(value, struct count);
} sources4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, SOURCES);
	__type(key, struct in6_addr);
	__type(value, struct count);
} sources6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct count);
} protocols SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, enum outcome);
	__type(value, struct count);
} outcomes SEC(".maps");

/* A per-CPU slot: XDP runs in softirq on one CPU, so nobody else writes it now and no atomic is needed. */
static __always_inline int add(struct count *count, __u64 bytes)
{
	if (!count)
		return 0;
	count->packets++;
	count->bytes += bytes;
	return 1;
}

/* Whether the source has a place. BPF_NOEXIST: where another CPU has just made one, its count must stay. */
static __always_inline int add_source(void *sources, const void *source, __u64 bytes)
{
	struct count *count = bpf_map_lookup_elem(sources, source), none = {};

	if (!count) {
		bpf_map_update_elem(sources, source, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(sources, source);
	}
	return add(count, bytes);
}

static __always_inline enum outcome count_packet(void *data, void *end)
{
	__u64 bytes = end - data;
	struct lab_packet pkt;
	enum lab_form form = lab_parse(&pkt, data, end);
	__u32 protocol;
	int has_room;

	if (form == LAB_NOT_IP)
		return NOT_IP;
	if (form == LAB_MALFORMED)
		return MALFORMED;
	/* Keys are copied to the stack: kernels before 5.18 take none from the packet. */
	if (pkt.family == ETH_P_IP) {
		__be32 source = pkt.ip4->saddr;

		has_room = add_source(&sources4, &source, bytes);
	} else {
		struct in6_addr source = pkt.ip6->saddr;

		has_room = add_source(&sources6, &source, bytes);
	}
	if (form == LAB_TOO_DEEP)
		return TOO_DEEP;
	protocol = pkt.protocol;
	add(bpf_map_lookup_elem(&protocols, &protocol), bytes);
	if (pkt.family == ETH_P_IP)
		return has_room ? IPV4 : NO_ROOM_IPV4;
	return has_room ? IPV6 : NO_ROOM_IPV6;
}

SEC("xdp")
int xdp_count_packet(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 outcome = count_packet(data, end);

	add(bpf_map_lookup_elem(&outcomes, &outcome), end - data);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
