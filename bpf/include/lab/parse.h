/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A cursor over a frame: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with extension headers, and the
 * ports of TCP, UDP and SCTP or the type and id of ICMP.
 *
 * lab_parse() fills a `struct lab_packet` and returns a verdict on the frame's form:
 *
 *   LAB_OK          the network header is valid; `l4` points behind it
 *   LAB_NOT_IP      neither IPv4 nor IPv6 (ARP, LLDP, a third VLAN tag, ...)
 *   LAB_MALFORMED   truncated, a header length below its minimum, or a wrong version nibble
 *   LAB_TOO_DEEP    more than LAB_MAX_EXTENSIONS IPv6 extension headers: nothing can be said of the payload
 *
 * A later fragment (its offset is not 0) carries no ports: `later_fragment` is 1, and sport and dport are 0.
 * A first fragment has ports and `fragment` is 1.
 *
 * Everything is inlined: a call to a BPF function costs about 8 ns, which is more than this whole parser.
 */
#ifndef LAB_PARSE_H
#define LAB_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define LAB_MAX_VLANS	   2
#define LAB_MAX_EXTENSIONS 6

#define LAB_IP_MORE_FRAGMENTS	0x2000
#define LAB_IP_OFFSET_MASK	0x1fff
#define LAB_IPV6_OFFSET_MASK	0xfff8
#define LAB_IPV6_MORE_FRAGMENTS 0x0001

enum lab_form {
	LAB_OK,
	LAB_NOT_IP,
	LAB_MALFORMED,
	LAB_TOO_DEEP,
};

/* RFC 8200: every extension header but Fragment (8 bytes) and AH (RFC 4302) has this start. */
struct lab_extension {
	__u8 next_header;
	__u8 length; /* in units of 8 bytes, the first 8 not counted */
};

struct lab_vlan {
	__be16 tci;
	__be16 protocol;
};

struct lab_ipv6_fragment {
	__u8 next_header;
	__u8 reserved;
	__be16 offset_flags;
	__be32 id;
};

/* The start that TCP, UDP and SCTP share. */
struct lab_ports {
	__be16 source;
	__be16 dest;
};

struct lab_packet {
	void *end;
	struct ethhdr *eth;
	union {
		struct iphdr *ip4;   /* when family is ETH_P_IP */
		struct ipv6hdr *ip6; /* when family is ETH_P_IPV6 */
	};
	void *l4;		 /* behind the last network header */
	__u16 family;		 /* ETH_P_IP, ETH_P_IPV6 or 0, host order */
	__u16 vlans;		 /* tags seen in the frame itself, 0 to 2 */
	__u16 l4_bytes;		 /* from l4 to the end of the IP packet: Ethernet padding is no transport header */
	__be16 vlan_tci;	 /* of the outer tag */
	__u8 protocol;		 /* IPPROTO_*, the last next header */
	__u8 fragment : 1;	 /* part of a fragmented datagram */
	__u8 later_fragment : 1; /* not its first part: l4 is not a transport header */
	__be16 sport;		 /* set by lab_parse_ports() */
	__be16 dport;
	__be32 fragment_id; /* of a fragment: what all fragments of its datagram share */
};

/*
 * The same offset, of which the verifier knows nothing but that it has 14 bits. It would follow every combination of
 * tags and extension headers as a path of its own through the rest of the program (a million instructions). What was
 * exclusive-ored twice with a packet's bytes it does not recognise; more than 0x3fff is never reached, and it stops
 * at 0xffff. The frame must have an Ethernet header.
 */
static __always_inline __u32 lab_forget(const struct lab_packet *pkt, __u64 offset)
{
	__u64 unknown = *(__u32 *)pkt->eth->h_dest;

	asm volatile("%0 ^= %1\n%0 ^= %1" : "+r"(offset) : "r"(unknown));
	return offset & 0x3fff;
}

/* The extension header chain. It is unrolled: the verifier proves each step's bounds, and the usual packet has none. */
static __always_inline enum lab_form lab_parse_extensions(struct lab_packet *pkt)
{
	void *start = pkt->l4, *at = start;
	__u8 next = pkt->protocol;

#pragma unroll
	for (int depth = 0; depth < LAB_MAX_EXTENSIONS; depth++) {
		struct lab_extension *ext;
		struct lab_ipv6_fragment *frag;

		if (depth)
			at = start + lab_forget(pkt, at - start);
		ext = at;
		frag = at;

		switch (next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case 135: /* Mobility, RFC 6275 */
			if ((void *)(ext + 1) > pkt->end)
				return LAB_MALFORMED;
			next = ext->next_header;
			at += (ext->length + 1) * 8;
			break;
		case IPPROTO_AH: /* RFC 4302: in units of 4 bytes, minus 2 */
			if ((void *)(ext + 1) > pkt->end)
				return LAB_MALFORMED;
			next = ext->next_header;
			at += (ext->length + 2) * 4;
			break;
		case IPPROTO_FRAGMENT:
			if ((void *)(frag + 1) > pkt->end)
				return LAB_MALFORMED;
			next = frag->next_header;
			/* RFC 6946: an atomic fragment (offset 0, no more to come) is whole. */
			if (frag->offset_flags & bpf_htons(LAB_IPV6_OFFSET_MASK | LAB_IPV6_MORE_FRAGMENTS))
				pkt->fragment = 1;
			pkt->fragment_id = frag->id;
			at = frag + 1;
			if (frag->offset_flags & bpf_htons(LAB_IPV6_OFFSET_MASK)) {
				pkt->later_fragment = 1;
				goto done;
			}
			break;
		default:
			goto done;
		}
	}
	switch (next) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
	case IPPROTO_AH:
	case IPPROTO_FRAGMENT:
	case 135:
		return LAB_TOO_DEEP;
	}
done:
	pkt->l4 = start + lab_forget(pkt, at - start);
	pkt->protocol = next;
	return LAB_OK;
}

/*
 * The network header at `at`, an offset from `data` that the verifier has forgotten; `bytes` is how many the frame has
 * from `data` on. Of a packet that an ICMP error quotes there is but the beginning: its own lengths are no lies, and
 * the caller gives LAB_QUOTED_BYTES.
 */
#define LAB_QUOTED_BYTES (1 << 20)

static __always_inline enum lab_form lab_parse_network(struct lab_packet *pkt, __be16 protocol, void *data, void *at,
						       __u32 bytes)
{
	void *end = pkt->end;

	if (protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip4 = at;
		__u32 length;

		if ((void *)(ip4 + 1) > end || ip4->version != 4 || ip4->ihl < 5)
			return LAB_MALFORMED;
		length = ip4->ihl * 4;
		if (at + length > end)
			return LAB_MALFORMED;
		/* A total length beyond the frame is a lie; one below it is Ethernet padding. */
		if (bpf_ntohs(ip4->tot_len) < length || (__u32)(at - data) + bpf_ntohs(ip4->tot_len) > bytes)
			return LAB_MALFORMED;
		pkt->family = ETH_P_IP;
		pkt->ip4 = ip4;
		pkt->protocol = ip4->protocol;
		pkt->l4 = at + length;
		pkt->l4_bytes = bpf_ntohs(ip4->tot_len) - length;
		if (ip4->frag_off & bpf_htons(LAB_IP_MORE_FRAGMENTS | LAB_IP_OFFSET_MASK)) {
			pkt->fragment = 1;
			pkt->fragment_id = bpf_htonl(bpf_ntohs(ip4->id));
		}
		if (ip4->frag_off & bpf_htons(LAB_IP_OFFSET_MASK))
			pkt->later_fragment = 1;
		return LAB_OK;
	}
	if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = at;
		enum lab_form form;
		__u32 payload, extensions;

		if ((void *)(ip6 + 1) > end || ip6->version != 6)
			return LAB_MALFORMED;
		payload = bpf_ntohs(ip6->payload_len);
		if ((__u32)((void *)(ip6 + 1) - data) + payload > bytes)
			return LAB_MALFORMED;
		pkt->family = ETH_P_IPV6;
		pkt->ip6 = ip6;
		pkt->protocol = ip6->nexthdr;
		pkt->l4 = ip6 + 1;
		form = lab_parse_extensions(pkt);
		if (form != LAB_OK)
			return form;
		extensions = pkt->l4 - (void *)(ip6 + 1);
		if (extensions > payload)
			return LAB_MALFORMED;
		pkt->l4_bytes = payload - extensions;
		return LAB_OK;
	}
	return LAB_NOT_IP;
}

/*
 * Fills `pkt` from a frame of `bytes` bytes whose start is in [data, end): of an skb the payload may lie elsewhere. An
 * outer tag that the driver took out is the caller's to look at.
 */
static __always_inline enum lab_form lab_parse_start(struct lab_packet *pkt, void *data, void *end, __u32 bytes)
{
	struct ethhdr *eth = data;
	void *at = eth + 1;
	__be16 protocol;

	__builtin_memset(pkt, 0, sizeof(*pkt));
	pkt->end = end;
	if (at > end)
		return LAB_MALFORMED;
	pkt->eth = eth;
	protocol = eth->h_proto;

#pragma unroll
	for (int depth = 0; depth < LAB_MAX_VLANS; depth++) {
		struct lab_vlan *tag = at;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > end)
			return LAB_MALFORMED;
		if (!depth)
			pkt->vlan_tci = tag->tci;
		protocol = tag->protocol;
		pkt->vlans++;
		at = tag + 1;
	}

	return lab_parse_network(pkt, protocol, data, data + lab_forget(pkt, at - data), bytes);
}

/* The same for a frame that lies in [data, end) as a whole, as XDP sees it. */
static __always_inline enum lab_form lab_parse(struct lab_packet *pkt, void *data, void *end)
{
	return lab_parse_start(pkt, data, end, end - data);
}

/*
 * The ports of TCP, UDP and SCTP into pkt->sport and pkt->dport. LAB_MALFORMED when a first fragment or a whole
 * packet is too short to hold them; other protocols and later fragments keep 0 and give LAB_OK.
 */
static __always_inline enum lab_form lab_parse_ports(struct lab_packet *pkt)
{
	struct lab_ports *ports = pkt->l4;

	if (pkt->later_fragment)
		return LAB_OK;
	if (pkt->protocol != IPPROTO_TCP && pkt->protocol != IPPROTO_UDP && pkt->protocol != IPPROTO_SCTP)
		return LAB_OK;
	if (pkt->l4_bytes < sizeof(*ports) || (void *)(ports + 1) > pkt->end)
		return LAB_MALFORMED;
	pkt->sport = ports->source;
	pkt->dport = ports->dest;
	return LAB_OK;
}

#endif /* LAB_PARSE_H */
