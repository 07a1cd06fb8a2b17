/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * tc_inspect_header: every header of every frame at tc, taken apart into fields and sent to user space as events.
 *
 * inspect_ingress sees what comes in, inspect_egress what goes out. Both only look: the verdict is always
 * TC_ACT_UNSPEC, and no byte is altered. Ethernet, VLAN tags (four; those that the driver took out of the frame, too),
 * ARP, IPv4 with options, IPv6 with extension headers (eight), TCP with options, UDP, ICMP, ICMPv6. Headers are found
 * wherever in the frame they lie, linear or not.
 *
 * HOW AN EVENT ENDS: `layers` tells which headers were read, `ending` why no more were, `layer` in which one
 *   WHOLE       all headers that this program knows were read; `payload_bytes` are behind them
 *   TRUNCATED   the frame, or the IP packet by its own length, ends within the header
 *   MALFORMED   a header length below the minimum, a wrong IP version, an option shorter than its two first bytes or
 *               longer than its header. Behind a malformed option the next header is still read
 *   TOO_DEEP    a fifth VLAN tag, a ninth extension header
 *   The first trouble counts. `missing_bytes`: so much longer than the frame the IP packet says it is.
 *
 * KNOBS (const volatile, set before load)
 *   sample 1          one frame of so many is looked at, on each CPU
 *   want_type 0       only frames of this Ethernet type, behind the tags
 *   want_protocol 0   only this IP protocol, behind the extension headers
 *   want_port 0       only TCP and UDP with this port, either way
 *   want_address ::   only from or to addresses that are this one under want_mask; IPv4 as ::ffff:a.b.c.d. ARP, too
 *   want_mask ::
 *   A filter looks at what was read: frames whose header is cut short before the field do not pass it.
 *
 * MAPS
 *   events   ring buffer of struct event, 4 MiB: 8,000 events; change it by load(max_entries=...)
 *   counts   frames by enum outcome; per CPU. SEEN = SENT + LOST + NOT_SAMPLED + NOT_WANTED
 *   works    memory to work in; per CPU
 *
 * KERNEL 5.10 or later by the helpers it calls (ring buffer 5.8); tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   What is inside a tunnel, or quoted in an ICMP error; MPLS, PPPoE, LLC, AH over IPv4: payload. Options of
 *   hop-by-hop and destination headers, options of neighbour discovery: their bytes are counted, not read. Checksums
 *   are reported, not verified: what a local socket sends has half a checksum at egress. A GSO frame is one event
 *   (`segments`): what the wire will see as many.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lab/address.h>
#include <lab/parse.h>

#define TAGS	     4
#define EXTENSIONS   8
#define OPTION_BYTES 40 /* at most: header lengths have four bits, and count words */
#define SACK_BLOCKS  4
#define WINDOW	     256 /* bytes of a frame that are looked at in one go */
#define LONGEST	     64	 /* no header has more to read in one piece */

enum layer {
	ETHERNET,
	VLAN,
	ARP,
	IPV4,
	IPV4_OPTION,
	IPV6,
	EXTENSION,
	TCP,
	TCP_OPTION,
	UDP,
	ICMP,
	ICMPV6,
};

enum ending {
	WHOLE,
	TRUNCATED,
	MALFORMED,
	TOO_DEEP,
};

enum direction {
	INGRESS,
	EGRESS,
};

enum outcome {
	SEEN,
	SENT,
	LOST, /* the ring buffer was full */
	NOT_SAMPLED,
	NOT_WANTED,
	OUTCOMES,
};

struct ethernet {
	__u8 dest[ETH_ALEN];
	__u8 source[ETH_ALEN];
	__be16 type; /* as on the wire: of the outer tag, where there is one */
};

struct tag {
	__be16 protocol;
	__u16 id;
	__u8 priority;
	__u8 drop_eligible;
	__u8 offloaded; /* not in the frame's bytes: the driver took it out, or will put it in */
	__u8 reserved;
	__be16 type; /* what follows */
};

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_bytes;
	__u8 protocol_bytes;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN]; /* the addresses: of ARP for IPv4 over Ethernet (RFC 826) only */
	__u8 target_mac[ETH_ALEN];
	struct in_addr sender;
	struct in_addr target;
};

/* Of IPv4 or TCP: the same form (RFC 791, 3.1; RFC 9293, 3.2). */
struct options {
	__u8 bytes;
	__u8 count; /* of `kinds`, no-operation and end of list included */
	__u8 kinds[OPTION_BYTES];
	__u8 raw[OPTION_BYTES];
};

struct ipv4 {
	__u8 header_bytes;
	__u8 dscp;
	__u8 ecn;
	__u8 ttl;
	__be16 total_bytes;
	__be16 id;
	__u16 fragment_offset; /* in bytes */
	__u8 reserved_flag;
	__u8 dont_fragment;
	__u8 more_fragments;
	__u8 protocol;
	__be16 checksum;
	struct in_addr source;
	struct in_addr dest;
};

struct extension {
	__u8 header;
	__u8 next_header;
	__u16 bytes;
	__u16 fragment_offset; /* of a fragment header, in bytes */
	__u8 more_fragments;
	__u8 routing_type; /* of a routing header */
	__u8 segments_left;
	__u8 reserved[3];
	__be32 id;	 /* of a fragment header, or the SPI of an authentication header */
	__be32 sequence; /* of an authentication header */
};

struct ipv6 {
	__u8 dscp;
	__u8 ecn;
	__u8 next_header;
	__u8 hop_limit;
	__u32 flow_label;
	__be16 payload_bytes;
	__u16 extensions; /* how many of them were read */
	struct in6_addr source;
	struct in6_addr dest;
};

struct sack {
	__be32 left;
	__be32 right;
};

struct tcp {
	__be16 source;
	__be16 dest;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 header_bytes;
	__u8 reserved; /* three bits */
	__u16 flags;   /* nine bits: FIN is 1, AE (once NS) is 256 */
	__be16 window;
	__be16 checksum;
	__be16 urgent;
	__be16 mss; /* the options; 0 where there is none */
	__u8 window_scale;
	__u8 has_window_scale;
	__u8 sack_permitted;
	__u8 sack_blocks;
	__u8 has_timestamps;
	__u8 unused[3];
	__be32 timestamp;
	__be32 timestamp_echo;
	struct sack sack[SACK_BLOCKS];
};

struct udp {
	__be16 source;
	__be16 dest;
	__be16 bytes;
	__be16 checksum;
};

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id; /* with `sequence` the second word: an MTU, a pointer, a gateway, or nothing */
	__be16 sequence;
	struct in6_addr target; /* of ICMPv6 neighbour solicitations, advertisements and redirects */
};

struct event {
	__u64 ns; /* CLOCK_MONOTONIC */
	__u32 ifindex;
	enum direction direction;
	__u32 frame_bytes;
	__u32 segments; /* 0: not a GSO frame */
	__u32 payload_bytes;
	__u32 missing_bytes;
	enum ending ending;
	enum layer layer; /* in which it ended */
	__u32 layers;	  /* bit n: layer n was read */
	__u16 tag_count;
	__u16 protocol; /* of what follows the network headers */
	struct tag tags[TAGS];
	struct ethernet ethernet;
	__be16 type; /* behind the tags */
	union {
		struct arp arp;
		struct {
			struct ipv4 ipv4;
			struct options ipv4_options;
		};
		struct {
			struct ipv6 ipv6;
			struct extension extensions[EXTENSIONS];
		};
	};
	union {
		struct {
			struct tcp tcp;
			struct options tcp_options;
		};
		struct udp udp;
		struct icmp icmp;
	};
};

/*
 * One frame's work. Offsets live in memory, of which the verifier remembers nothing: else it would follow every
 * combination of tags, options and extension headers as a path of its own.
 */
struct work {
	struct event event;
	__u32 unsampled; /* frames until the next is looked at */
	__u32 at;	 /* of the frame: where the next header begins */
	__u32 end;	 /* no header reaches beyond */
	__u32 start;	 /* of the frame: what is in the window */
	__u32 held;
	volatile __u32 option; /* of a header's options: where the next begins */
	__u8 window[WINDOW + LONGEST];
};

const volatile __u32 sample = 1;
const volatile __u16 want_type;
const volatile __u8 want_protocol;
const volatile __u16 want_port;
const volatile struct in6_addr want_address;
const volatile struct in6_addr want_mask;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, enum outcome);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

/* A per-CPU slot: tc runs with bottom halves disabled, so nobody else writes it now. */
static __always_inline void count(enum outcome outcome)
{
	__u64 *slot = bpf_map_lookup_elem(&counts, &outcome);

	if (slot)
		*slot += 1;
}

/* ---- The window ---- */

/* Moves the window to the next header. A function of its own: rare, and called from many places. */
static __noinline long slide(struct __sk_buff *skb, struct work *work)
{
	__u32 left = skb->len - work->at, bytes = left - 1;

	/* One less than there are, and then one more: "not 0" bounds nothing before Linux 6.8, an addition does. */
	if (bytes > WINDOW - 1)
		bytes = WINDOW - 1;
	asm volatile("" : "+r"(bytes));
	bytes += 1;
	if (!left || bpf_skb_load_bytes(skb, work->at, work->window, bytes))
		return -1;
	work->start = work->at;
	work->held = bytes;
	return 0;
}

/* The next `bytes` bytes, LONGEST at most; NULL where the frame, or the packet, is shorter. */
static __always_inline void *look(struct __sk_buff *skb, struct work *work, __u32 bytes)
{
	__u64 from = work->at - work->start;

	if (work->at + bytes > work->end)
		return NULL;
	if (from + bytes > work->held) {
		if (slide(skb, work))
			return NULL;
		from = 0;
	}
	/* It is below WINDOW already, for something of it is held. The verifier must see it at this very register. */
	asm volatile("%0 &= %1" : "+r"(from) : "i"(WINDOW - 1));
	return work->window + from;
}

static __always_inline void trouble(struct event *event, enum ending ending, enum layer layer)
{
	if (event->ending != WHOLE)
		return;
	event->ending = ending;
	event->layer = layer;
}

static __always_inline void have(struct work *work, enum layer layer, __u32 bytes)
{
	work->event.layers |= 1 << layer;
	work->at += bytes;
}

/* ---- Ethernet, VLAN, ARP ---- */

static __always_inline void add_tag(struct event *event, __be16 protocol, __u16 tci, __be16 type, bool offloaded)
{
	__u32 place = event->tag_count;
	struct tag *tag;

	if (place >= TAGS)
		return;
	tag = &event->tags[place];
	tag->protocol = protocol;
	tag->id = tci & 0xfff;
	tag->priority = tci >> 13;
	tag->drop_eligible = tci >> 12 & 1;
	tag->offloaded = offloaded;
	tag->type = type;
	event->tag_count = place + 1;
	event->layers |= 1 << VLAN;
}

static __always_inline bool is_tag(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* Ethernet and its tags; whether all of them were read. */
static __always_inline bool read_ethernet(struct __sk_buff *skb, struct work *work)
{
	struct event *event = &work->event;
	struct ethhdr *eth = look(skb, work, sizeof(*eth));

	if (!eth) {
		trouble(event, TRUNCATED, ETHERNET);
		return false;
	}
	__builtin_memcpy(event->ethernet.dest, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(event->ethernet.source, eth->h_source, ETH_ALEN);
	event->ethernet.type = event->type = eth->h_proto;
	if (skb->vlan_present) {
		event->ethernet.type = skb->vlan_proto;
		add_tag(event, skb->vlan_proto, skb->vlan_tci, eth->h_proto, true);
	}
	have(work, ETHERNET, sizeof(*eth));

	for (int depth = 0; depth < TAGS && is_tag(event->type) && event->tag_count < TAGS; depth++) {
		struct lab_vlan *tag = look(skb, work, sizeof(*tag));

		if (!tag) {
			trouble(event, TRUNCATED, VLAN);
			return false;
		}
		add_tag(event, event->type, bpf_ntohs(tag->tci), tag->protocol, false);
		event->type = tag->protocol;
		have(work, VLAN, sizeof(*tag));
	}
	if (is_tag(event->type))
		trouble(event, TOO_DEEP, VLAN);
	return !is_tag(event->type);
}

struct arp_for_ipv4 {
	__u8 sender_mac[ETH_ALEN];
	__u8 sender[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target[4];
};

static __always_inline void read_arp(struct __sk_buff *skb, struct work *work)
{
	struct arp *arp = &work->event.arp;
	struct arp_for_ipv4 *addresses;
	struct arphdr *header = look(skb, work, sizeof(*header));
	__u32 bytes;

	if (!header)
		return trouble(&work->event, TRUNCATED, ARP);
	arp->hardware = header->ar_hrd;
	arp->protocol = header->ar_pro;
	arp->hardware_bytes = header->ar_hln;
	arp->protocol_bytes = header->ar_pln;
	arp->operation = header->ar_op;
	have(work, ARP, sizeof(*header));
	bytes = 2 * (arp->hardware_bytes + arp->protocol_bytes);
	if (work->at + bytes > work->end)
		return trouble(&work->event, TRUNCATED, ARP);
	if (arp->hardware_bytes == ETH_ALEN && arp->protocol_bytes == 4) {
		addresses = look(skb, work, sizeof(*addresses));
		if (!addresses)
			return;
		__builtin_memcpy(arp->sender_mac, addresses->sender_mac, ETH_ALEN);
		__builtin_memcpy(arp->target_mac, addresses->target_mac, ETH_ALEN);
		__builtin_memcpy(&arp->sender, addresses->sender, 4);
		__builtin_memcpy(&arp->target, addresses->target, 4);
	}
	work->at += bytes;
}

/* ---- Options of IPv4 and TCP ---- */

#define END_OF_LIST  0
#define NO_OPERATION 1

enum tcp_option {
	MSS = 2,
	WINDOW_SCALE = 3,
	SACK_PERMITTED = 4,
	SACK = 5,
	TIMESTAMPS = 8,
};

/* Wire bytes of any alignment. */
static __always_inline __be32 word(const __u8 *at)
{
	return *(__be32 *)at;
}

/* One TCP option at `at`, which is `bytes` long; of a wrong length it is left alone, as the kernel does. */
static __always_inline void read_tcp_option(struct tcp *tcp, const __u8 *at, __u32 bytes)
{
	if (at[0] == MSS && bytes == 4) {
		tcp->mss = *(__be16 *)(at + 2);
	} else if (at[0] == WINDOW_SCALE && bytes == 3) {
		tcp->window_scale = at[2];
		tcp->has_window_scale = 1;
	} else if (at[0] == SACK_PERMITTED && bytes == 2) {
		tcp->sack_permitted = 1;
	} else if (at[0] == TIMESTAMPS && bytes == 10) {
		tcp->timestamp = word(at + 2);
		tcp->timestamp_echo = word(at + 6);
		tcp->has_timestamps = 1;
	} else if (at[0] == SACK && bytes >= 10 && bytes <= 34 && (bytes - 2) % 8 == 0) {
		tcp->sack_blocks = (bytes - 2) / 8;
		for (__u32 block = 0; block < SACK_BLOCKS; block++) {
			if (block >= tcp->sack_blocks)
				break;
			tcp->sack[block].left = word(at + 2 + 8 * block);
			tcp->sack[block].right = word(at + 6 + 8 * block);
		}
	}
}

/* One option, the `number`th; how long it is, 0 at the end of the list or if it is malformed. */
static __always_inline __u32 read_option(struct options *options, struct tcp *tcp, __u32 at, __u32 number)
{
	const __u8 *option = options->raw + (at & 63);
	__u32 bytes;

	options->kinds[number] = option[0];
	options->count = number + 1;
	if (option[0] == END_OF_LIST || option[0] == NO_OPERATION)
		return option[0];
	bytes = option[1];
	if (bytes < 2 || at + bytes > options->bytes)
		return 0;
	if (tcp)
		read_tcp_option(tcp, option, bytes);
	return bytes;
}

/* The options of a header, whose first is at `first`: which kinds there are, and TCP's (tcp not NULL) are read. */
static __always_inline bool read_options(struct work *work, struct options *options, const __u8 *first, __u32 bytes,
					 struct tcp *tcp)
{
	options->bytes = bytes;
	__builtin_memcpy(options->raw, first, OPTION_BYTES);
	work->option = 0;
	for (__u32 number = 0; number < OPTION_BYTES; number++) {
		__u32 at = work->option, length;

		if (at >= bytes)
			return true;
		length = read_option(options, tcp, at, number);
		if (!length)
			return options->kinds[number] == END_OF_LIST;
		work->option = at + length;
	}
	return true;
}

/* ---- Transport ---- */

static __always_inline void read_tcp(struct __sk_buff *skb, struct work *work)
{
	struct tcp *tcp = &work->event.tcp;
	struct tcphdr *header = look(skb, work, sizeof(*header));
	__u16 start;

	if (!header)
		return trouble(&work->event, TRUNCATED, TCP);
	start = bpf_ntohs(((__be16 *)header)[6]);
	tcp->source = header->source;
	tcp->dest = header->dest;
	tcp->sequence = header->seq;
	tcp->acknowledgement = header->ack_seq;
	tcp->header_bytes = start >> 12 << 2;
	tcp->reserved = start >> 9 & 7;
	tcp->flags = start & 0x1ff;
	tcp->window = header->window;
	tcp->checksum = header->check;
	tcp->urgent = header->urg_ptr;
	work->event.layers |= 1 << TCP;
	if (tcp->header_bytes < sizeof(*header))
		return trouble(&work->event, MALFORMED, TCP);
	header = look(skb, work, tcp->header_bytes);
	if (!header)
		return trouble(&work->event, TRUNCATED, TCP_OPTION);
	if (tcp->header_bytes > sizeof(*header)) {
		work->event.layers |= 1 << TCP_OPTION;
		if (!read_options(work, &work->event.tcp_options, (void *)(header + 1),
				  tcp->header_bytes - sizeof(*header), tcp))
			trouble(&work->event, MALFORMED, TCP_OPTION);
	}
	work->at += tcp->header_bytes;
}

static __always_inline void read_udp(struct __sk_buff *skb, struct work *work)
{
	struct udp *udp = &work->event.udp;
	struct udphdr *header = look(skb, work, sizeof(*header));

	if (!header)
		return trouble(&work->event, TRUNCATED, UDP);
	udp->source = header->source;
	udp->dest = header->dest;
	udp->bytes = header->len;
	udp->checksum = header->check;
	have(work, UDP, sizeof(*header));
	/* RFC 2675: a length of 0 is a jumbogram's. */
	if (udp->bytes && bpf_ntohs(udp->bytes) < sizeof(*header))
		trouble(&work->event, MALFORMED, UDP);
}

#define ICMP_HEADER_BYTES 8
#define ND_SOLICITATION	  135
#define ND_REDIRECT	  137

struct icmp_start {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id;
	__be16 sequence;
	struct in6_addr target;
};

static __always_inline void read_icmp(struct __sk_buff *skb, struct work *work, enum layer layer)
{
	struct icmp *icmp = &work->event.icmp;
	struct icmp_start *header = look(skb, work, ICMP_HEADER_BYTES);

	if (!header)
		return trouble(&work->event, TRUNCATED, layer);
	icmp->type = header->type;
	icmp->code = header->code;
	icmp->checksum = header->checksum;
	icmp->id = header->id;
	icmp->sequence = header->sequence;
	if (layer == ICMPV6 && icmp->type >= ND_SOLICITATION && icmp->type <= ND_REDIRECT) {
		header = look(skb, work, sizeof(*header));
		if (header)
			icmp->target = header->target;
		else
			trouble(&work->event, TRUNCATED, layer);
		work->at += header ? sizeof(header->target) : 0;
	}
	have(work, layer, ICMP_HEADER_BYTES);
}

static __always_inline void read_transport(struct __sk_buff *skb, struct work *work)
{
	switch (work->event.protocol) {
	case IPPROTO_TCP:
		return read_tcp(skb, work);
	case IPPROTO_UDP:
		return read_udp(skb, work);
	case IPPROTO_ICMP:
		return work->event.type == bpf_htons(ETH_P_IP) ? read_icmp(skb, work, ICMP) : (void)0;
	case IPPROTO_ICMPV6:
		return work->event.type == bpf_htons(ETH_P_IPV6) ? read_icmp(skb, work, ICMPV6) : (void)0;
	}
}

/* ---- IP ---- */

/* What follows lies within the packet, which may be shorter than the frame (padding) or say it is longer. */
static __always_inline void end_packet(struct work *work, __u32 packet_end)
{
	if (packet_end > work->end)
		work->event.missing_bytes = packet_end - work->end;
	else
		work->end = packet_end;
}

/* Whether a transport header follows. */
static __always_inline bool read_ipv4(struct __sk_buff *skb, struct work *work)
{
	struct ipv4 *ip = &work->event.ipv4;
	struct iphdr *header = look(skb, work, sizeof(*header));
	__u16 fragment;
	__u32 begin = work->at;

	if (!header) {
		trouble(&work->event, TRUNCATED, IPV4);
		return false;
	}
	if (header->version != 4) {
		trouble(&work->event, MALFORMED, IPV4);
		return false;
	}
	fragment = bpf_ntohs(header->frag_off);
	ip->header_bytes = header->ihl * 4;
	ip->dscp = header->tos >> 2;
	ip->ecn = header->tos & 3;
	ip->total_bytes = header->tot_len;
	ip->id = header->id;
	ip->reserved_flag = fragment >> 15;
	ip->dont_fragment = fragment >> 14 & 1;
	ip->more_fragments = fragment >> 13 & 1;
	ip->fragment_offset = (fragment & LAB_IP_OFFSET_MASK) * 8;
	ip->ttl = header->ttl;
	ip->protocol = header->protocol;
	ip->checksum = header->check;
	ip->source.s_addr = header->saddr;
	ip->dest.s_addr = header->daddr;
	work->event.layers |= 1 << IPV4;
	work->event.protocol = ip->protocol;
	if (ip->header_bytes < sizeof(*header) || bpf_ntohs(ip->total_bytes) < ip->header_bytes) {
		trouble(&work->event, MALFORMED, IPV4);
		return false;
	}
	end_packet(work, begin + bpf_ntohs(ip->total_bytes));
	header = look(skb, work, ip->header_bytes);
	if (!header) {
		trouble(&work->event, TRUNCATED, IPV4_OPTION);
		return false;
	}
	if (ip->header_bytes > sizeof(*header)) {
		work->event.layers |= 1 << IPV4_OPTION;
		if (!read_options(work, &work->event.ipv4_options, (void *)(header + 1),
				  ip->header_bytes - sizeof(*header), NULL))
			trouble(&work->event, MALFORMED, IPV4_OPTION);
	}
	work->at += ip->header_bytes;
	return !ip->fragment_offset;
}

static __always_inline bool is_extension(__u32 header)
{
	return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING || header == IPPROTO_FRAGMENT ||
	       header == IPPROTO_AH || header == IPPROTO_DSTOPTS || header == IPPROTO_MH;
}

/* One extension header's fields; `start` are its first 8 bytes, or 12 of an authentication header. */
static __always_inline void read_extension(struct extension *extension, __u8 header, const __u8 *start)
{
	__u16 fragment = bpf_ntohs(*(__be16 *)(start + 2));

	extension->header = header;
	extension->next_header = start[0];
	switch (header) {
	case IPPROTO_FRAGMENT:
		extension->bytes = 8;
		extension->fragment_offset = fragment & LAB_IPV6_OFFSET_MASK;
		extension->more_fragments = fragment & LAB_IPV6_MORE_FRAGMENTS;
		extension->id = word(start + 4);
		break;
	case IPPROTO_AH: /* RFC 4302, 2.2: in units of 4 bytes, minus 2 */
		extension->bytes = (start[1] + 2) * 4;
		extension->id = word(start + 4);
		extension->sequence = word(start + 8);
		break;
	case IPPROTO_ROUTING:
		extension->routing_type = start[2];
		extension->segments_left = start[3];
		/* and its length as all others */
	default:
		extension->bytes = (start[1] + 1) * 8;
	}
}

/* Whether a transport header follows. */
static __always_inline bool read_extensions(struct __sk_buff *skb, struct work *work)
{
	struct event *event = &work->event;

	for (__u32 number = 0; number < EXTENSIONS && is_extension(event->protocol); number++) {
		struct extension *extension = &event->extensions[number];
		__u32 least = event->protocol == IPPROTO_AH ? 12 : 8;
		__u8 *start = look(skb, work, least);

		if (!start) {
			trouble(event, TRUNCATED, EXTENSION);
			return false;
		}
		read_extension(extension, event->protocol, start);
		event->ipv6.extensions = number + 1;
		event->layers |= 1 << EXTENSION;
		event->protocol = extension->next_header;
		if (extension->bytes < least) {
			trouble(event, MALFORMED, EXTENSION);
			return false;
		}
		if (work->at + extension->bytes > work->end) {
			trouble(event, TRUNCATED, EXTENSION);
			return false;
		}
		work->at += extension->bytes;
		if (extension->fragment_offset)
			return false;
	}
	if (is_extension(event->protocol))
		trouble(event, TOO_DEEP, EXTENSION);
	return !is_extension(event->protocol);
}

static __always_inline bool read_ipv6(struct __sk_buff *skb, struct work *work)
{
	struct ipv6 *ip = &work->event.ipv6;
	struct ipv6hdr *header = look(skb, work, sizeof(*header));
	__u32 start;

	if (!header) {
		trouble(&work->event, TRUNCATED, IPV6);
		return false;
	}
	if (header->version != 6) {
		trouble(&work->event, MALFORMED, IPV6);
		return false;
	}
	start = bpf_ntohl(*(__be32 *)header);
	ip->dscp = start >> 22 & 0x3f;
	ip->ecn = start >> 20 & 3;
	ip->flow_label = start & 0xfffff;
	ip->payload_bytes = header->payload_len;
	ip->next_header = header->nexthdr;
	ip->hop_limit = header->hop_limit;
	ip->source = header->saddr;
	ip->dest = header->daddr;
	work->event.protocol = ip->next_header;
	have(work, IPV6, sizeof(*header));
	/* RFC 2675: of a jumbogram, or of a GSO frame beyond 64 KiB, which ends where the frame does. */
	if (ip->payload_bytes)
		end_packet(work, work->at + bpf_ntohs(ip->payload_bytes));
	return read_extensions(skb, work);
}

static __always_inline void read_frame(struct __sk_buff *skb, struct work *work)
{
	if (!read_ethernet(skb, work))
		return;
	switch (work->event.type) {
	case bpf_htons(ETH_P_ARP):
		return read_arp(skb, work);
	case bpf_htons(ETH_P_IP):
		return read_ipv4(skb, work) ? read_transport(skb, work) : (void)0;
	case bpf_htons(ETH_P_IPV6):
		return read_ipv6(skb, work) ? read_transport(skb, work) : (void)0;
	}
}

/* ---- What is wanted ---- */

static __always_inline bool has_wanted_port(const struct event *event)
{
	if (event->layers & 1 << TCP)
		return event->tcp.source == bpf_htons(want_port) || event->tcp.dest == bpf_htons(want_port);
	if (event->layers & 1 << UDP)
		return event->udp.source == bpf_htons(want_port) || event->udp.dest == bpf_htons(want_port);
	return false;
}

static __always_inline bool is_wanted_address(struct in6_addr address)
{
	__u32 differs = 0;

#pragma unroll
	for (int word = 0; word < 4; word++)
		differs |= (address.s6_addr32[word] ^ want_address.s6_addr32[word]) & want_mask.s6_addr32[word];
	return !differs;
}

static __always_inline bool has_wanted_address(const struct event *event)
{
	if (event->layers & 1 << IPV4)
		return is_wanted_address(lab_mapped(event->ipv4.source.s_addr)) ||
		       is_wanted_address(lab_mapped(event->ipv4.dest.s_addr));
	if (event->layers & 1 << IPV6)
		return is_wanted_address(event->ipv6.source) || is_wanted_address(event->ipv6.dest);
	if (event->layers & 1 << ARP)
		return is_wanted_address(lab_mapped(event->arp.sender.s_addr)) ||
		       is_wanted_address(lab_mapped(event->arp.target.s_addr));
	return false;
}

static __always_inline bool is_masked(void)
{
	return want_mask.s6_addr32[0] | want_mask.s6_addr32[1] | want_mask.s6_addr32[2] | want_mask.s6_addr32[3];
}

static __always_inline bool is_wanted(const struct event *event)
{
	if (want_type && event->type != bpf_htons(want_type))
		return false;
	if (want_protocol && (event->protocol != want_protocol || !(event->layers & (1 << IPV4 | 1 << IPV6))))
		return false;
	if (want_port && !has_wanted_port(event))
		return false;
	return !is_masked() || has_wanted_address(event);
}

/* The first, and then one of so many: counted down, for a division costs more than all else here. */
static __always_inline bool is_sampled(struct work *work)
{
	if (work->unsampled) {
		work->unsampled--;
		return false;
	}
	work->unsampled = sample - 1;
	return true;
}

static __always_inline int inspect(struct __sk_buff *skb, enum direction direction)
{
	__u32 only = 0;
	struct work *work = bpf_map_lookup_elem(&works, &only);

	count(SEEN);
	if (!work)
		return TC_ACT_UNSPEC;
	if (sample > 1 && !is_sampled(work)) {
		count(NOT_SAMPLED);
		return TC_ACT_UNSPEC;
	}
	__builtin_memset(&work->event, 0, sizeof(work->event));
	work->at = work->start = work->held = 0;
	work->end = work->event.frame_bytes = skb->len;
	work->event.ifindex = skb->ifindex;
	work->event.direction = direction;
	work->event.segments = skb->gso_segs;
	read_frame(skb, work);
	work->event.payload_bytes = work->end - work->at;
	if (!is_wanted(&work->event)) {
		count(NOT_WANTED);
		return TC_ACT_UNSPEC;
	}
	work->event.ns = bpf_ktime_get_ns();
	count(bpf_ringbuf_output(&events, &work->event, sizeof(work->event), 0) ? LOST : SENT);
	return TC_ACT_UNSPEC;
}

SEC("tc/ingress")
int inspect_ingress(struct __sk_buff *skb)
{
	return inspect(skb, INGRESS);
}

SEC("tc/egress")
int inspect_egress(struct __sk_buff *skb)
{
	return inspect(skb, EGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
