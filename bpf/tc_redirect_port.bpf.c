/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * tc_redirect_port: sends connections for one address and port to another, and their replies back.
 *
 * A rule says: TCP (or UDP) for address A, port P goes to address B, port Q. redirect_request (tc ingress) rewrites the
 * destination of what comes in, before the kernel routes it; redirect_reply (tc egress, same interface) gives the
 * replies their old source back. Address :: in a rule means "any address": then only the port changes, as when a
 * service on this machine moves from 80 to 8080.
 *
 * No table of connections: a rule is found by the packet alone, so a million flows cost what one costs, nothing can
 * overflow, and a restart breaks nothing. The price: a target belongs to its rule. What comes in for a target directly
 * could not be told from redirected traffic when it replies, and is refused (direct_allowed lifts that, for targets
 * that never reply by this interface).
 *
 * VERDICTS
 *   TCP or UDP to a rule's address and port   rewritten, TC_ACT_UNSPEC (on to the next program, then to the kernel)
 *   reply from a rule's target                rewritten, TC_ACT_UNSPEC
 *   straight to a rule's target               TC_ACT_SHOT, or TC_ACT_UNSPEC with direct_allowed
 *   first fragment                            as a whole packet if the rule changes only the port, else TC_ACT_SHOT
 *   later fragment                            TC_ACT_UNSPEC: it has no ports, and needs no change if only those do
 *   malformed or truncated IP, TCP, UDP       TC_ACT_SHOT
 *   over 6 IPv6 extension headers, ICMP, SCTP, ARP, everything else   TC_ACT_UNSPEC
 *   VLAN tags (two at the most), IPv4 options and IPv6 extension headers change none of this, and leave as they came.
 *
 * KNOBS (const volatile, set before load)
 *   offloaded_checksums true   frames may carry partial checksums: the kernel's helper updates them. What a local
 *                              socket sends is partial at tc egress, whatever the offloads of the device.
 *                              false: all frames are forwarded ones with complete checksums, and RFC 1624 inline is
 *                              cheaper. Wrong here means broken checksums.
 *   direct_allowed false       let traffic pass that addresses a target directly
 *
 * MAPS
 *   redirects   address, port, protocol -> address, port, rule. IPv4 addresses are v4-mapped (::ffff:10.0.0.1)
 *   replies     the same, backwards
 *   ports       port (host order) -> which kinds of rules touch it, 0 for nearly all: the one look-up others pay for
 *   hits        rule -> packets and bytes each way; per CPU
 *   outcomes    why packets were refused or left alone; per CPU
 *   verdicts    packets and bytes by tc verdict; per CPU
 *   bpf/tc_redirect_port.py writes the first three in an order that never shows half a rule.
 *
 * CHECKSUMS are updated incrementally (RFC 1624), never verified: a wrong one stays wrong. A UDP checksum of 0 stays 0,
 * and one that comes out as 0 is sent as 0xffff (RFC 768).
 *
 * KERNEL 5.10 or later by the helpers it calls; tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   ICMP errors about a redirected packet reach the client with the target's address inside: give both sides one MTU.
 *   Protocols that carry addresses in their payload (FTP). From 4.19 to 6.15, hardware that gives IPv6 frames a
 *   CHECKSUM_COMPLETE: the helper had no way to be told (BPF_F_IPV6 came with 6.16). More than 100 bytes of IPv6
 *   extension headers in a frame whose data lies in pages: dropped as MALFORMED.
 */
#define LAB_HOOK_TC
#include <stdbool.h>
#include <lab/verdict.h>

#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <lab/checksum.h>
#include <lab/parse.h>

#define RULES	     1024
#define HEADER_BYTES 192 /* Ethernet, two tags, 60 bytes of IPv4 or 100 of IPv6, a TCP header */

#ifndef BPF_F_IPV6
#define BPF_F_IPV6 (1ULL << 7) /* Linux 6.16 */
#endif

enum port_use {
	RULE_EXACT = 1, /* a rule with an address redirects this port */
	RULE_ANY = 2,	/* a rule for any address does */
	TARGET_EXACT = 4,
	TARGET_ANY = 8,
};

enum outcome {
	MALFORMED,
	TOO_DEEP,
	FRAGMENT_REFUSED, /* a first fragment whose address would change */
	DIRECT_REFUSED,	  /* straight to a target */
	HELPER_FAILED,	  /* the kernel refused to update a checksum */
	OUTCOMES,
};

struct endpoint {
	struct in6_addr address; /* :: in a rule for any address */
	__be16 port;
	__u8 protocol;
	__u8 reserved;
};

struct substitute {
	struct in6_addr address; /* ::, keep it */
	__be16 port;
	__u16 rule;
};

struct hit {
	__u64 packets;
	__u64 bytes;
	__u64 reply_packets;
	__u64 reply_bytes;
};

const volatile bool offloaded_checksums = true;
const volatile bool direct_allowed;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, RULES);
	__type(key, struct endpoint);
	__type(value, struct substitute);
} redirects SEC(".maps"), replies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u8);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RULES);
	__type(key, __u32);
	__type(value, struct hit);
} hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, enum outcome);
	__type(value, __u64);
} outcomes SEC(".maps");

enum direction {
	REQUEST, /* the destination changes */
	REPLY,	 /* the source does */
};

static __always_inline int refuse(struct __sk_buff *skb, enum outcome why)
{
	__u64 *count = bpf_map_lookup_elem(&outcomes, &why);

	if (count)
		*count += 1;
	return lab_verdict(TC_ACT_SHOT, skb->len);
}

static __always_inline int leave(struct __sk_buff *skb)
{
	return lab_verdict(TC_ACT_UNSPEC, skb->len);
}

/* Has the headers lie in the linear part of the skb, where a program can read and write them. */
static __always_inline void make_headers_linear(struct __sk_buff *skb)
{
	__u32 wanted = skb->len < HEADER_BYTES ? skb->len : HEADER_BYTES;

	if ((void *)(long)skb->data + wanted > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, wanted);
}

static __always_inline __u8 use_of(__be16 port)
{
	__u32 index = bpf_ntohs(port);
	__u8 *use = bpf_map_lookup_elem(&ports, &index);

	return use ? *use : 0;
}

static __always_inline void endpoint_of(const struct lab_packet *pkt, enum direction direction, struct endpoint *end)
{
	__builtin_memset(end, 0, sizeof(*end));
	end->protocol = pkt->protocol;
	end->port = direction == REQUEST ? pkt->dport : pkt->sport;
	if (pkt->family == ETH_P_IP) {
		end->address.s6_addr32[2] = bpf_htonl(0xffff); /* v4-mapped, RFC 4291, section 2.5.5.2 */
		end->address.s6_addr32[3] = direction == REQUEST ? pkt->ip4->daddr : pkt->ip4->saddr;
	} else {
		end->address = direction == REQUEST ? pkt->ip6->daddr : pkt->ip6->saddr;
	}
}

/* A rule with this address goes before a rule for any: two look-ups only where a port has both kinds. */
static __always_inline struct substitute *find(void *map, struct endpoint *end, bool exact, bool any)
{
	struct substitute *found = NULL;

	if (exact)
		found = bpf_map_lookup_elem(map, end);
	if (!found && any) {
		__builtin_memset(&end->address, 0, sizeof(end->address));
		found = bpf_map_lookup_elem(map, end);
	}
	return found;
}

static __always_inline bool keeps_address(const struct substitute *to)
{
	return !(to->address.s6_addr32[0] | to->address.s6_addr32[1] | to->address.s6_addr32[2] |
		 to->address.s6_addr32[3]);
}

/* Writes the new address; the sum of differences that it makes comes back. */
static __always_inline __u64 write_address(struct lab_packet *pkt, enum direction direction,
					   const struct substitute *to)
{
	__u64 diff;

	if (pkt->family == ETH_P_IP) {
		__be32 *address = direction == REQUEST ? &pkt->ip4->daddr : &pkt->ip4->saddr;

		diff = lab_csum_diff32(*address, to->address.s6_addr32[3]);
		*address = to->address.s6_addr32[3];
		pkt->ip4->check = lab_csum_apply(pkt->ip4->check, diff);
		return diff;
	}
	{
		struct in6_addr *address = direction == REQUEST ? &pkt->ip6->daddr : &pkt->ip6->saddr;

		diff = lab_csum_diff128(address->s6_addr32, to->address.s6_addr32);
		*address = to->address;
		return diff;
	}
}

/* By the kernel's helper, which knows partial and complete checksums apart; the packet's pointers end here. */
static __always_inline long update_by_helper(struct __sk_buff *skb, __u32 offset, __u64 addresses, __u64 port,
					     __u64 flags, bool ipv6)
{
	long refused = 0;

	if (addresses) {
		__u64 pseudo = flags | BPF_F_PSEUDO_HDR;

		refused = bpf_l4_csum_replace(skb, offset, 0, lab_csum_fold(addresses),
					      ipv6 ? pseudo | BPF_F_IPV6 : pseudo);
		if (refused && ipv6)
			refused = bpf_l4_csum_replace(skb, offset, 0, lab_csum_fold(addresses), pseudo);
	}
	return refused ? refused : bpf_l4_csum_replace(skb, offset, 0, lab_csum_fold(port), flags);
}

/* Its whole header is there: the frame reaches so far, the IP packet too, and a TCP header is not too short. */
static __always_inline bool transport_is_whole(const struct lab_packet *pkt, bool udp)
{
	struct tcphdr *tcp = pkt->l4;

	if (udp)
		return pkt->l4_bytes >= sizeof(struct udphdr) && pkt->l4 + sizeof(struct udphdr) <= pkt->end;
	return pkt->l4_bytes >= sizeof(*tcp) && (void *)(tcp + 1) <= pkt->end && tcp->doff >= 5;
}

static __always_inline int substitute(struct __sk_buff *skb, struct lab_packet *pkt, enum direction direction,
				      const struct substitute *to)
{
	struct lab_ports *transport = pkt->l4;
	__u32 l4 = pkt->l4 - (void *)(long)skb->data;
	bool udp = pkt->protocol == IPPROTO_UDP, ipv6 = pkt->family == ETH_P_IPV6;
	__u32 at = udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check);
	__u64 addresses = 0, port;
	__be16 *old;

	if (!transport_is_whole(pkt, udp))
		return refuse(skb, MALFORMED);

	old = direction == REQUEST ? &transport->dest : &transport->source;
	port = lab_csum_diff16(*old, to->port);
	*old = to->port;
	if (!keeps_address(to))
		addresses = write_address(pkt, direction, to);
	if (!offloaded_checksums) {
		__u16 *check = pkt->l4 + at;

		if ((void *)(check + 1) > pkt->end)
			return refuse(skb, MALFORMED);
		*check = udp ? lab_csum_apply_udp(*check, addresses + port) : lab_csum_apply(*check, addresses + port);
	} else if (update_by_helper(skb, l4 + at, addresses, port, udp ? BPF_F_MARK_MANGLED_0 : 0, ipv6)) {
		return refuse(skb, HELPER_FAILED);
	}
	return leave(skb);
}

static __always_inline void count_hit(__u32 rule, enum direction direction, __u32 bytes)
{
	struct hit *hit = bpf_map_lookup_elem(&hits, &rule);

	if (!hit)
		return;
	if (direction == REQUEST) {
		hit->packets++;
		hit->bytes += bytes;
	} else {
		hit->reply_packets++;
		hit->reply_bytes += bytes;
	}
}

static __always_inline int redirect(struct __sk_buff *skb, enum direction direction)
{
	struct substitute *to;
	struct lab_packet pkt;
	struct endpoint end;
	enum lab_form form;
	__u8 use;

	make_headers_linear(skb);
	form = lab_parse_start(&pkt, (void *)(long)skb->data, (void *)(long)skb->data_end, skb->len);
	if (form == LAB_OK)
		form = lab_parse_ports(&pkt);
	if (form == LAB_MALFORMED)
		return refuse(skb, MALFORMED);
	if (form != LAB_OK)
		return leave(skb);
	if (pkt.protocol != IPPROTO_TCP && pkt.protocol != IPPROTO_UDP)
		return leave(skb);

	/* A later fragment has port 0 here, which no rule can name. */
	use = use_of(direction == REQUEST ? pkt.dport : pkt.sport);
	if (!use)
		return leave(skb);
	endpoint_of(&pkt, direction, &end);
	if (direction == REPLY)
		to = find(&replies, &end, use & TARGET_EXACT, use & TARGET_ANY);
	else
		to = find(&redirects, &end, use & RULE_EXACT, use & RULE_ANY);
	if (!to && direction == REQUEST && !direct_allowed && use & (TARGET_EXACT | TARGET_ANY)) {
		endpoint_of(&pkt, direction, &end);
		if (find(&replies, &end, use & TARGET_EXACT, use & TARGET_ANY))
			return refuse(skb, DIRECT_REFUSED);
	}
	if (!to)
		return leave(skb);
	if (pkt.fragment && !keeps_address(to))
		return refuse(skb, FRAGMENT_REFUSED);
	count_hit(to->rule, direction, skb->len);
	return substitute(skb, &pkt, direction, to);
}

SEC("tc/ingress")
int redirect_request(struct __sk_buff *skb)
{
	return redirect(skb, REQUEST);
}

SEC("tc/egress")
int redirect_reply(struct __sk_buff *skb)
{
	return redirect(skb, REPLY);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
