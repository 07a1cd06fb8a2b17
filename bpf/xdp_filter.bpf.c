/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * xdp_filter: allows and denies packets by addresses, ports and protocol, at a cost that does not grow with the rules.
 *
 * A rule may name a source prefix, a destination prefix, a protocol, destination ports and source ports; it matches
 * a packet that fits all it names. Of the rules that match, the strongest decides: the one of the highest priority,
 * then of the longest source prefix, the longest destination prefix, the narrowest destination ports, the narrowest
 * source ports, one that names a protocol, and at last the one listed first. Where none matches, the default decides.
 *
 * Two ways in. By hand, without user space: `deny_ports[9000] = 1` closes a destination port, before all rules and
 * whatever becomes of them. And bpf/xdp_filter.py compiles rules into the tables below and changes them as a whole.
 *
 * VERDICTS
 *   the strongest rule says ALLOW / DENY   XDP_PASS / XDP_DROP
 *   no rule matches                        the default policy: ALLOW unless the rule set says DENY
 *   TCP, UDP or SCTP to a closed port      XDP_DROP (deny_ports), the first fragment as a whole packet
 *   later fragment                         by the rules that name no ports: it carries none. Without its first
 *                                          fragment, which was judged by its ports, it is of no use to anybody
 *   other protocol (ICMP, ESP, ...)        by the rules that name no ports
 *   neither IPv4 nor IPv6 (ARP, LLDP)      XDP_PASS, or XDP_DROP with pass_not_ip = 0
 *   three or more VLAN tags                XDP_DROP: what is behind them cannot be judged
 *   over 6 IPv6 extension headers          XDP_DROP: the same
 *   malformed or truncated                 XDP_DROP: an IP, TCP, UDP or SCTP header cut short (in a first fragment,
 *                                          too: RFC 1858, 3.1), or lengths that contradict each other
 *   One or two VLAN tags, IPv4 options and IPv6 extension headers change none of this. No byte is ever altered.
 *
 * KNOBS (const volatile, set before load)
 *   pass_not_ip 1        what is neither IPv4 nor IPv6 goes through, or not
 *
 * MAPS
 *   deny_ports           destination port -> 1: closed
 *   counts               packets and bytes by what decided: the first slots by `enum decider`, then a slot a rule,
 *                        which it keeps while rule sets come and go; per CPU. Each packet is counted once.
 *   verdicts             packets and bytes by XDP verdict; per CPU
 *   the rule set         active, roots, steps, nodes, rows, pairs, protocols, port_classes, cells, rules: below
 *
 * THE RULE SET
 *   Every table has room for two. A packet reads once, from `active`, where those in force begin, and so sees one rule
 *   set, whole. User space fills the other half of each table and replaces the map within `active`; the kernel comes
 *   back from that once no packet is left that saw the old one.
 *   Each address goes through a trie (16 bits at once, then whole bytes or a few prefixes to compare) to the strongest
 *   rule that its prefixes alone decide. Where ports or protocol matter it comes to a row instead: one cell, one
 *   rule, for each class of (protocol, source port, destination port); rules with both prefixes have rows by pairs.
 *   Rules are numbered by strength, so the strongest of the four candidates is the greatest number; 0 is the default.
 *
 * KERNEL 5.10 or later (a grace period after a map-in-map update 5.0; bounded loops 5.3; array maps by batch 5.6).
 * Tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   State: replies need rules of their own. What is inside a tunnel, or behind a tag that is not 802.1Q or 802.1ad
 *   (MPLS, PPPoE: neither IPv4 nor IPv6). Checksums are not verified. IPv6 jumbograms are dropped as malformed. Later
 *   fragments of a datagram that only a rule with ports allows: allow its addresses, or avoid fragments. Frames of
 *   several buffers (an MTU beyond a page): the kernel refuses to attach natively.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <lab/parse.h>
#include <lab/verdict.h>

#define SCTP_HEADER_BYTES 12 /* RFC 9260, 3.1 */

/* The size of one rule set's part, and of both: load(..., max_entries=) raises them for large rule sets. */
#define RULES	1024
#define STEPS	4096
#define NODES	256
#define ROWS	1024
#define CELLS	65536
#define PAIRS	4096
#define COUNTS	(FIRST_RULE + 2 * RULES) /* those in force and those about to be */
#define BOTH(n) (2 * (n))

/*
 * A trie as deep as can be: a node for each of 13 bytes of an IPv6 address behind the first two, and LEAF_STEPS
 * prefixes to compare instead of the last. A step before a node takes the place of the bytes that it skips.
 */
#define LEAF_STEPS 4
#define MAX_STEPS  (13 + LEAF_STEPS)

const volatile __u8 pass_not_ip = 1;

enum decider {
	DEFAULT_POLICY,
	CLOSED_PORT,
	NOT_IP,
	MALFORMED,
	TOO_DEEP,
	FIRST_RULE = 8,
};

enum judgement {
	ALLOW,
	DENY,
};

enum trie {
	SOURCE4,
	DEST4,
	SOURCE6,
	DEST6,
	TRIES,
};

/* What is in force, one cache line: where its part of each table begins, and what the look-ups need to know. */
struct rule_set {
	__u32 generation; /* 0 or 1: for user space, which fills the other */
	__u32 roots;
	__u32 steps;
	__u32 nodes;
	__u32 rows;
	__u32 pairs;
	__u32 protocols;
	__u32 port_classes;
	__u32 cells;
	__u32 rules;
	__u32 any_row;	    /* of the rules without a prefix; 0: there are none */
	__u32 dest_classes; /* of destination ports: cells a source port class takes */
	__u32 dest_groups;  /* columns of `pairs` */
};

/* A reference is the number of a rule, or with such a beginning the place of a row, a step or a node. */
#define ROW	   0x40000000
#define STEP	   0x80000000
#define NODE	   0xc0000000
#define NODE_OCTET 26 /* bits 26 to 29: which octet leads on, of the 16 of `struct address` */
#define NODE_PLACE 0x03ffffff

struct root {
	__u32 reference[65536]; /* by the address's first 16 bits */
};

struct node {
	__u32 reference[256]; /* by one byte of the address */
};

/* An address as two numbers; IPv4 is in the lower half of `low`. */
struct address {
	__u64 high;
	__u64 low;
};

/* Does the address have this prefix? Go on at `inside` or `outside`. */
struct step {
	struct address prefix;
	struct address mask;
	__u32 inside;
	__u32 outside;
};

struct row {
	__u32 cells; /* where they begin; 0: it has none */
	__u32 rule;  /* the strongest without ports and protocol */
	__u32 group; /* its line, or column, of `pairs`; 0: none */
};

struct protocol_class {
	__u32 cell;
	__u32 has_ports;
};

struct port_classes {
	__u16 of[65536];
};

struct rule {
	__u32 counter;
	enum judgement judgement;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u8);
} deny_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, enum decider);
	__type(value, struct lab_count);
} counts SEC(".maps");

struct rule_set_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rule_set);
} no_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct rule_set_map);
} active SEC(".maps") = {
	.values = { &no_rules },
};

#define TABLE(name, entries, entry)                                                                                    \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(max_entries, BOTH(entries));                                                                    \
		__type(key, __u32);                                                                                    \
		__type(value, entry);                                                                                  \
	} name SEC(".maps")

TABLE(roots, TRIES, struct root);		  /* enum trie */
TABLE(steps, STEPS, struct step);		  /* a reference with STEP */
TABLE(nodes, NODES, struct node);		  /* step->inside */
TABLE(rows, ROWS, struct row);			  /* a reference with ROW */
TABLE(pairs, PAIRS, __u32);			  /* source group * dest_groups + destination group -> a reference */
TABLE(protocols, 2 * 256, struct protocol_class); /* protocol; + 256 where the packet has no ports */
TABLE(port_classes, 2, struct port_classes);	  /* 0 source, 1 destination */
TABLE(cells, CELLS, __u32);			  /* -> the number of a rule */
TABLE(rules, RULES, struct rule);		  /* its number -> what it says */

/* Entry `place` of a table, in the part that this packet sees; NULL only beyond its end. */
#define LOOK_UP(table, place, set)                                                                                     \
	({                                                                                                             \
		__u32 at = (place) + (set)->table;                                                                     \
		bpf_map_lookup_elem(&table, &at);                                                                      \
	})

/* ---- Form ---- */

static __always_inline bool has_port_fields(const struct lab_packet *pkt)
{
	if (pkt->later_fragment)
		return false;
	return pkt->protocol == IPPROTO_TCP || pkt->protocol == IPPROTO_UDP || pkt->protocol == IPPROTO_SCTP;
}

static __always_inline bool carries_whole_tcp(const struct lab_packet *pkt)
{
	const struct tcphdr *tcp = pkt->l4;

	if ((void *)(tcp + 1) > pkt->end)
		return false;
	return tcp->doff >= 5 && tcp->doff * 4 <= pkt->l4_bytes;
}

/* The length of a first fragment's datagram goes beyond the fragment. */
static __always_inline bool carries_whole_udp(const struct lab_packet *pkt)
{
	const struct udphdr *udp = pkt->l4;

	if (pkt->l4_bytes < sizeof(*udp) || (void *)(udp + 1) > pkt->end)
		return false;
	return bpf_ntohs(udp->len) >= sizeof(*udp) && (pkt->fragment || bpf_ntohs(udp->len) <= pkt->l4_bytes);
}

static __always_inline bool carries_whole_transport(const struct lab_packet *pkt)
{
	if (pkt->protocol == IPPROTO_TCP)
		return carries_whole_tcp(pkt);
	if (pkt->protocol == IPPROTO_UDP)
		return carries_whole_udp(pkt);
	return pkt->l4_bytes >= SCTP_HEADER_BYTES;
}

/* A frame that is not IP behind two tags: is there a third? */
static __always_inline bool has_third_tag(const struct lab_packet *pkt)
{
	const struct lab_vlan *tags = (void *)(pkt->eth + 1);

	if (pkt->vlans < LAB_MAX_VLANS || (void *)(tags + LAB_MAX_VLANS) > pkt->end)
		return false;
	return tags[1].protocol == bpf_htons(ETH_P_8021Q) || tags[1].protocol == bpf_htons(ETH_P_8021AD);
}

/* ---- Addresses to references ---- */

/* Two words of an address in memory, which is aligned by 2 at best. */
static __always_inline __u64 wide(const __be32 *words)
{
	return (__u64)bpf_ntohl(words[0]) << 32 | bpf_ntohl(words[1]);
}

static __always_inline bool has_prefix(struct address address, const struct step *step)
{
	return !(((address.high ^ step->prefix.high) & step->mask.high) |
		 ((address.low ^ step->prefix.low) & step->mask.low));
}

/* From a step or a node to what it leads to. */
static __always_inline __u32 follow(__u32 reference, struct address address, const struct rule_set *set)
{
	if ((reference & NODE) == NODE) {
		const struct node *node = LOOK_UP(nodes, reference & NODE_PLACE, set);
		__u32 octet = reference >> NODE_OCTET & 15;
		__u64 word = octet < 8 ? address.high : address.low;

		return node ? node->reference[word >> (56 - 8 * (octet & 7)) & 0xff] : 0;
	} else {
		const struct step *step = LOOK_UP(steps, reference & ~STEP, set);

		if (!step)
			return 0;
		return has_prefix(address, step) ? step->inside : step->outside;
	}
}

static __always_inline __u32 find(enum trie trie, __u32 first16, struct address address, const struct rule_set *set)
{
	const struct root *root = LOOK_UP(roots, trie, set);
	__u32 reference = root ? root->reference[first16 & 0xffff] : 0;

	for (int depth = 0; depth < MAX_STEPS && reference & STEP; depth++)
		reference = follow(reference, address, set);
	return reference;
}

static __always_inline __u32 find4(enum trie trie, __be32 wire, const struct rule_set *set)
{
	struct address address = { .low = bpf_ntohl(wire) };

	return find(trie, address.low >> 16, address, set);
}

static __always_inline __u32 find6(enum trie trie, const struct in6_addr *wire, const struct rule_set *set)
{
	struct address address = { wide(&wire->s6_addr32[0]), wide(&wire->s6_addr32[2]) };

	return find(trie, address.high >> 48, address, set);
}

/* ---- Rows, cells, rules ---- */

static __always_inline __u32 class_of(__u32 side, __be16 port, const struct rule_set *set)
{
	const struct port_classes *classes = LOOK_UP(port_classes, side, set);

	return classes ? classes->of[bpf_ntohs(port)] : 0;
}

/* Which cell of any row stands for this packet's protocol and ports. */
static __always_inline __u32 cell_of(const struct lab_packet *pkt, const struct rule_set *set)
{
	const struct protocol_class *class = LOOK_UP(protocols, pkt->protocol + (has_port_fields(pkt) ? 0 : 256), set);

	if (!class)
		return 0;
	if (!class->has_ports)
		return class->cell;
	return class->cell + class_of(0, pkt->sport, set) * set->dest_classes + class_of(1, pkt->dport, set);
}

static __always_inline __u32 stronger(__u32 one, __u32 other)
{
	return one > other ? one : other;
}

static __always_inline __u32 rule_in_row(const struct row *row, __u32 cell, const struct rule_set *set)
{
	const __u32 *rule;

	if (!row->cells)
		return row->rule;
	rule = LOOK_UP(cells, row->cells + cell, set);
	return rule ? stronger(*rule, row->rule) : row->rule;
}

/* The rule of a reference and, where it is a row's, its line or column in `pairs`. */
static __always_inline __u32 resolve(__u32 reference, __u32 cell, __u32 *group, const struct rule_set *set)
{
	const struct row *row;

	if (!(reference & ROW))
		return reference;
	row = LOOK_UP(rows, reference & ~ROW, set);
	if (!row)
		return 0;
	*group = row->group;
	return rule_in_row(row, cell, set);
}

static __always_inline __u32 strongest(const struct lab_packet *pkt, __u32 source, __u32 dest,
				       const struct rule_set *set)
{
	__u32 cell, rule, source_group = 0, dest_group = 0, no_group;
	const __u32 *pair;

	if (!((source | dest) & ROW) && !set->any_row)
		return stronger(source, dest);
	cell = cell_of(pkt, set);
	rule = resolve(source, cell, &source_group, set);
	rule = stronger(rule, resolve(dest, cell, &dest_group, set));
	if (set->any_row)
		rule = stronger(rule, resolve(set->any_row, cell, &no_group, set));
	if (!source_group || !dest_group)
		return rule;
	pair = LOOK_UP(pairs, source_group * set->dest_groups + dest_group, set);
	return pair ? stronger(rule, resolve(*pair, cell, &no_group, set)) : rule;
}

/* ---- Verdicts ---- */

/* A per-CPU slot: XDP runs in softirq, so nobody else writes it now and no atomic is needed. */
static __always_inline int decide(int action, __u32 decider, __u64 bytes)
{
	struct lab_count *count = bpf_map_lookup_elem(&counts, &decider);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
	return lab_verdict(action, bytes);
}

static __always_inline bool is_closed(const struct lab_packet *pkt)
{
	__u32 port = bpf_ntohs(pkt->dport);
	const __u8 *closed = bpf_map_lookup_elem(&deny_ports, &port);

	return closed && *closed;
}

static __always_inline int judge(const struct lab_packet *pkt, __u32 source, __u32 dest, const struct rule_set *set,
				 __u64 bytes)
{
	const struct rule *rule = LOOK_UP(rules, strongest(pkt, source, dest, set), set);

	if (!rule)
		return decide(XDP_ABORTED, DEFAULT_POLICY, bytes);
	return decide(rule->judgement == DENY ? XDP_DROP : XDP_PASS, rule->counter, bytes);
}

SEC("xdp")
int xdp_filter(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 bytes = end - data;
	struct lab_packet pkt;
	enum lab_form form = lab_parse(&pkt, data, end);
	__u32 only = 0, source, dest;
	const struct rule_set *set;
	void *inner;

	if (form == LAB_NOT_IP && !has_third_tag(&pkt))
		return decide(pass_not_ip ? XDP_PASS : XDP_DROP, NOT_IP, bytes);
	if (form == LAB_NOT_IP || form == LAB_TOO_DEEP)
		return decide(XDP_DROP, TOO_DEEP, bytes);
	if (form == LAB_MALFORMED)
		return decide(XDP_DROP, MALFORMED, bytes);

	if (has_port_fields(&pkt)) {
		if (!carries_whole_transport(&pkt) || lab_parse_ports(&pkt) != LAB_OK)
			return decide(XDP_DROP, MALFORMED, bytes);
		if (is_closed(&pkt))
			return decide(XDP_DROP, CLOSED_PORT, bytes);
	}

	inner = bpf_map_lookup_elem(&active, &only);
	set = inner ? bpf_map_lookup_elem(inner, &only) : NULL;
	if (!set)
		return decide(XDP_ABORTED, DEFAULT_POLICY, bytes);

	if (pkt.family == ETH_P_IP) {
		source = find4(SOURCE4, pkt.ip4->saddr, set);
		dest = find4(DEST4, pkt.ip4->daddr, set);
	} else if ((void *)(pkt.ip6 + 1) <= end) { /* Shown to the verifier again: it forgot what went with `family`. */
		source = find6(SOURCE6, &pkt.ip6->saddr, set);
		dest = find6(DEST6, &pkt.ip6->daddr, set);
	} else {
		return decide(XDP_DROP, MALFORMED, bytes);
	}
	return judge(&pkt, source, dest, set, bytes);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
