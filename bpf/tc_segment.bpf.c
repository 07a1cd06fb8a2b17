/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * tc_segment: lets workloads talk as a policy says, by sessions: replies of what is allowed pass, nothing else does.
 *
 * segment_ingress and segment_egress sit on the interfaces of a workload, or of the machine that it runs on. A packet
 * of a known session takes one look-up. The first packet of a session is judged by the rules of its direction, and
 * with it the whole session, both ways. bpf/tc_segment.py writes the policy, at any time, and reads everything.
 *
 * THE RULE that decides is the one of the highest priority, then the first in the list, of those that match by source
 * and destination prefix, protocol, source and destination ports (of ICMP: its type) and direction; it allows or
 * denies. A rule that only logs is told of on the way. Where none matches, the default of the direction decides.
 *
 * VERDICTS, by enum outcome of `stats_map`; what passes goes on to the next program (TC_ACT_UNSPEC), the rest is
 * TC_ACT_SHOT. Each packet has one outcome at each hook that it passes.
 *   IN_SESSION       pass  of a session that was let through here
 *   OPENED           pass  the first packet of one, allowed
 *   RELATED          pass  an ICMP error that quotes a packet of a session, on its way to who sent that
 *   STATELESS        pass  allowed, of a kind that has no sessions: other ICMP types
 *   NEIGHBOUR        pass  IPv6 neighbour discovery (RFC 4861) and multicast listeners (RFC 3810), from this link
 *   FRAGMENT         pass  a later fragment, whose first one passed here in the last 30 s
 *   NOT_IP           pass  ARP, LLDP; drop with pass_not_ip = 0
 *   UNTRACKED        pass  allowed, but there was no room for its session (full: open). Its replies have none
 *   DENIED           drop  a rule, or the default, says so
 *   REVOKED          drop  of a session that the policy in force now denies: it has ended
 *   UNSOLICITED      drop  of no session, and nothing that could open one: a reply, a reset, an ICMP error
 *   INVALID          drop  TCP that does not fit its session: a reset out of place, data before the handshake
 *   BAD_FLAGS        drop  of SYN, FIN, RST and ACK a set that makes no sense (SYN+FIN, none at all)
 *   NO_ROOM          drop  allowed, but there was no room for its session (full: closed)
 *   STRAY_FRAGMENT   drop  a later fragment without its first, or before it
 *   MALFORMED        drop  truncated headers, lengths that contradict each other, headers of over 2,048 bytes in a
 * frame whose data lies in pages TOO_DEEP         drop  more than two VLAN tags in the frame, over six IPv6 extension
 * headers: nobody can say Not packets:     EVICTED, sessions that made room for others; EVENT_LOST, events that found
 * no room One or two VLAN tags, IPv4 options and IPv6 extension headers change none of this.
 *
 * SESSIONS are 5-tuples; ICMP queries (echo, timestamp) go by address, id and type; other protocols by addresses. A
 * session is let through an interface by who opened it: its packets come in there and the replies go out, or the
 * other way round. A router has both: the rules of either direction are asked, each once a session.
 * States are those of lab/flow_state.h, each with a time after which a silent session is over (`timeouts` of the
 * policy). TIME_WAIT and RESET are not prolonged by what still comes.
 *
 * A NEW POLICY takes effect between two packets: one map in a map is replaced, and a packet reads it once. What becomes
 * of running sessions, the policy says: `recheck` judges each anew at its next packet, as if it opened now; `keep`
 * lets them go on until they end.
 *
 * FULL: a session can lie in 16 places. Where all have living sessions, the policy says: `closed` drops the new one,
 * `open` passes its packet untracked, `evict` takes the place of one that was never answered, or else the one that
 * was silent for longest.
 *
 * KNOBS (const volatile, set before load)
 *   bucket_count 16384   of 8 sessions each; at most 60 % get used before some find no room. Take what sized(sessions)
 *                        of bpf/tc_segment.py says: it sets max_entries to match
 *   hash_seed 0          a secret number keeps strangers from filling one place on purpose; sized() takes a random one
 *   pass_not_ip 1        what is neither IPv4 nor IPv6
 *   adopt 0              1: TCP connections from before the program may go on, if a rule allows their next packet
 *
 * MAPS
 *   policy_map           what is in force: one array in an array of maps, replaced as a whole
 *   prefixes, port_sets, protocol_sets -> bitmaps -> rules   the rules of two policies: this one and the next
 *   session_map          buckets of eight sessions of 64 bytes, one cache line each
 *   tag_map              16 bits of each session's hash: which of them is worth a look
 *   guards               locks of buckets, for who adds a session
 *   works                memory to work in; per CPU
 *   fragment_map         datagrams whose first fragment passed (LRU)
 *   stats_map            packets and bytes by outcome and direction; per CPU
 *   rule_stats           sessions, packets and bytes by rule; 1 and 2 are the defaults; per CPU
 *   events               ring buffer of struct event: what rules with `log` decided
 *
 * KERNEL 5.13 or later by what it uses (structs handed to global functions); tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   TCP windows: of an allowed session any sequence number passes (resets must be near). Network address translation
 *   between two interfaces that are both watched. The same addresses in two VLANs or namespaces are one workload.
 *   Sessions that other protocols speak of (FTP, SIP). Tunnels: the outer packet is judged. Frames beyond 64 KiB (BIG
 *   TCP): MALFORMED. Denied packets are dropped silently, without a reset or an ICMP error. Big-endian machines.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <lab/address.h>
#include <lab/clock.h>
#include <lab/ends.h>
#include <lab/flow_state.h>
#include <lab/jhash.h>
#include <lab/parse.h>

#define RULES	     1024
#define RULE_WORDS   (RULES / 64)
#define RULE_SLOTS   4096 /* a rule's counters; one that comes takes a slot that is long out of use */
#define SLOT_BITS    12
#define SLOT_MASK    (RULE_SLOTS - 1)
#define BITMAPS	     4096
#define PREFIXES     16384
#define TEXT_BYTES   262144
#define WAYS	     8
#define BUCKETS	     16384
#define GROUP	     1024 /* buckets under one lock; a session's two are of one group */
#define GUARDS	     1024
#define PREFERRED    5 /* sessions that the first bucket takes before the second is asked */
#define NS_PER_MS    1000000
#define SKEW_MS	     60000 /* so far ahead of this CPU's clock another one's may be; of 49.7 days */
#define FRAGMENTS    4096
#define FRAGMENT_MS  30000 /* RFC 791 says 15 s, RFC 8200 60 s, Linux 30 s */
#define HEADER_BYTES 192   /* Ethernet, two tags, 60 bytes of IPv4 or 100 of IPv6, a TCP header */
#define MOST_BYTES   2048  /* the same with long extension headers */
#define QUOTED_BYTES 128   /* of an ICMP error behind its header */
#define ICMP_BYTES   8

#define NOBODY	 0xff /* instead of a way */
#define EVICTING 0x20 /* with a way: a living session */

#define ALLOWED 0x80000000 /* of decide(): with the rule's slot */
#define TOLD	0x40000000

const volatile __u32 bucket_count = BUCKETS;
const volatile __u32 hash_seed = 0;
const volatile __u8 pass_not_ip = 1;
const volatile __u8 adopt = 0;

enum direction {
	INGRESS,
	EGRESS,
};

enum outcome {
	IN_SESSION,
	OPENED,
	RELATED,
	STATELESS,
	NEIGHBOUR,
	FRAGMENT,
	NOT_IP,
	UNTRACKED,
	DENIED,
	REVOKED,
	UNSOLICITED,
	INVALID,
	BAD_FLAGS,
	NO_ROOM,
	STRAY_FRAGMENT,
	MALFORMED,
	TOO_DEEP,
	EVICTED,
	EVENT_LOST,
	OUTCOMES,
};

enum action {
	ALLOW,
	DENY,
	LOG,
};

enum full {
	CLOSED,
	OPEN,
	EVICT,
};

enum slot {
	NO_RULE,
	DEFAULT_INGRESS,
	DEFAULT_EGRESS,
	FIRST_RULE,
};

/* What is in force; packets read two cache lines of it. All zero, as before the first one: nothing passes. */
struct policy {
	__u32 generation; /* its lower 16 bits are in the sessions it let through, and are never 0 */
	__u32 half;	  /* of every table: 0 or 1 */
	__u32 words;	  /* of a bitmap */
	__u32 text_bytes;
	__u8 allows[2]; /* by default, by enum direction */
	__u8 logs[2];	/* what the default decides */
	__u8 rechecks;
	enum full full : 8;
	__u16 next_slot;   /* of a rule that comes new */
	__u32 idle_ms[16]; /* by enum flow_state */
	__u32 icmp_idle_ms;
	__u8 text[TEXT_BYTES]; /* the same as YAML, for people */
};

/* A cache line. The end with the lower address (then port) comes first; of an ICMP query, who asks. */
struct session {
	struct in6_addr lower; /* IPv4 as ::ffff:a.b.c.d */
	struct in6_addr upper;
	__be16 lower_port; /* of an ICMP query: its id */
	__be16 upper_port; /* of an ICMP query: its type */
	__u32 let_through; /* protocol, and the slots of the rules that let it through, see through() */
	__u32 heard_ms;	   /* CLOCK_MONOTONIC, as of the tick before */
	__u16 generation;
	__u8 sent[2]; /* enum sent, by side; OPENER */
	struct {
		__u32 isn;
		__u32 next_seq;
	} ends[2];
};

#define OPENER 0x80 /* in `sent`, of one side */

struct bucket {
	struct session sessions[WAYS];
};

/* 0: no session there. */
struct tags {
	union {
		__u16 of[WAYS];
		__u64 fours[WAYS / 4];
	};
};

struct guard {
	struct bpf_spin_lock lock;
};

struct prefix {
	__u32 bits;  /* 32 and those of the prefix */
	__u32 table; /* half and side: 0 source, 1 destination */
	struct in6_addr address;
};

struct bitmap {
	__u64 words[RULE_WORDS];
};

struct port_sets {
	__u16 of[65536];
};

struct protocol_sets {
	__u16 of[256];
};

struct rule {
	__u32 slot;
	enum action action : 8;
	__u8 log;
	__u16 reserved;
};

struct count {
	__u64 packets; /* as on the wire: those of a GSO or GRO frame each count */
	__u64 bytes;
};

struct counts {
	struct count ingress;
	struct count egress;
};

struct rule_count {
	__u64 sessions;
	__u64 packets;
	__u64 bytes;
};

struct datagram {
	struct in6_addr source;
	struct in6_addr dest;
	__be32 id;
	__u8 protocol; /* of IPv4: RFC 791 has it among what tells datagrams apart */
	__u8 direction;
	__u16 reserved;
};

struct event {
	__u64 at_ns;
	__u32 slot; /* of the rule */
	__u32 ifindex;
	enum outcome outcome; /* OUTCOMES: a rule that only logs */
	enum direction direction;
	__u32 protocol;
	__be16 source_port;
	__be16 dest_port;
	struct in6_addr source;
	struct in6_addr dest;
};
const struct event *kept_for_btf __attribute__((unused));

struct policy_array {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct policy);
} no_policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct policy_array);
} policy_map SEC(".maps") = {
	.values = { &no_policy },
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2 * PREFIXES);
	__type(key, struct prefix);
	__type(value, __u32);
} prefixes SEC(".maps");

#define TABLE(name, entries, entry)                                                                                    \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(max_entries, entries);                                                                          \
		__type(key, __u32);                                                                                    \
		__type(value, entry);                                                                                  \
	} name SEC(".maps")

TABLE(bitmaps, 2 * BITMAPS, struct bitmap);	   /* one bit a rule; the first rule is the strongest */
TABLE(port_sets, 2 * 2, struct port_sets);	   /* half, side -> by port: the bitmap */
TABLE(protocol_sets, 2 * 2, struct protocol_sets); /* half, direction -> by protocol: the bitmap */
TABLE(rules, 2 * RULES, struct rule);
TABLE(tag_map, BUCKETS, struct tags);
TABLE(guards, GUARDS, struct guard);

/* Mappable, because that puts the first entry at the start of a page: each session is one cache line, and not two. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, struct bucket);
} session_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENTS);
	__type(key, struct datagram);
	__type(value, __u32); /* ms */
} fragment_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, enum outcome);
	__type(value, struct counts);
} stats_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RULE_SLOTS);
	__type(key, __u32);
	__type(value, struct rule_count);
} rule_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

/* Both ends, in the order of a session. */
struct key {
	struct in6_addr lower;
	struct in6_addr upper;
	__be16 lower_port;
	__be16 upper_port;
	__u32 protocol;
};

enum kind {
	CONVERSATION, /* TCP, UDP, any protocol whose packets may be answered */
	QUERY,	      /* ICMP that asks */
	ANSWER,	      /* ICMP that answers */
	SINGLE,	      /* ICMP of other types */
	PROBLEM,      /* ICMP errors */
};

/* What a packet says. */
struct packet {
	struct key key;
	struct tcp_news tcp;
	__u32 ifindex;
	__u32 packets;
	__u32 bytes;
	__u32 now_ms;
	__u32 slot; /* of the rule that it counts for */
	__u8 side;  /* who sent it: 0 lower, 1 upper */
	__u8 fragment;
	enum direction direction : 8;
	enum kind kind : 8;
	__be32 fragment_id;
	__u16 quoted; /* of an ICMP error: where the packet begins that it quotes */
	__be16 family;
};

/* In memory, of which the verifier remembers nothing: each value on the stack would be a path of its own. */
struct work {
	struct packet packet;
	struct packet quoted; /* by an ICMP error */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

/* Where a session is, or could be. */
struct home {
	struct tags *tags[2];
	struct bucket *buckets[2];
	struct guard *guard;
	__u32 at[2];
	__u16 tag;
};

/* ---- Counting ---- */

/* Per-CPU slots: tc runs with bottom halves disabled, so nobody else writes them now. */
static __always_inline void count(enum outcome outcome, enum direction direction, __u32 packets, __u32 bytes)
{
	struct counts *counts = bpf_map_lookup_elem(&stats_map, &outcome);
	struct count *count;

	if (!counts)
		return;
	count = direction == INGRESS ? &counts->ingress : &counts->egress;
	count->packets += packets;
	count->bytes += bytes;
}

static __always_inline int finish(const struct packet *packet, enum outcome outcome)
{
	struct rule_count *rule;

	count(outcome, packet->direction, packet->packets, packet->bytes);
	if (packet->slot) {
		rule = bpf_map_lookup_elem(&rule_stats, &packet->slot);
		if (rule) {
			rule->packets += packet->packets;
			rule->bytes += packet->bytes;
			rule->sessions += outcome == OPENED;
		}
	}
	if (outcome == NOT_IP && !pass_not_ip)
		return TC_ACT_SHOT;
	return outcome < DENIED ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* A rule's word on a session, to user space; `from` is the side that opened it, or tries. */
__noinline int tell(const struct packet *packet, __u32 slot, enum outcome outcome, __u32 from)
{
	const struct key *key;
	struct event *event;

	if (!packet)
		return 0;
	key = &packet->key;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count(EVENT_LOST, packet->direction, 1, 0);
		return 0;
	}
	event->at_ns = bpf_ktime_get_ns();
	event->slot = slot;
	event->ifindex = packet->ifindex;
	event->outcome = outcome;
	event->direction = packet->direction;
	event->protocol = key->protocol;
	event->source = from ? key->upper : key->lower;
	event->dest = from ? key->lower : key->upper;
	event->source_port = from ? key->upper_port : key->lower_port;
	event->dest_port = from ? key->lower_port : key->upper_port;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* ---- What a packet says ---- */

static __always_inline bool is_equal(const struct in6_addr *a, const struct in6_addr *b)
{
	const __u32 *x = a->s6_addr32, *y = b->s6_addr32;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]));
}

/* The key of both directions; the side that `source` is. An address that talks to itself has its ports. */
static __always_inline __u8 order(struct key *key, const struct in6_addr *source, const struct in6_addr *dest,
				  __be16 sport, __be16 dport)
{
	bool upper = lab_is_upper(source, dest, sport, dport);

	key->lower = upper ? *dest : *source;
	key->upper = upper ? *source : *dest;
	key->lower_port = upper ? dport : sport;
	key->upper_port = upper ? sport : dport;
	return upper;
}

/* The same where who asks comes first. */
static __always_inline __u8 order_query(struct key *key, const struct in6_addr *source, const struct in6_addr *dest,
					__be16 id, __u8 type, bool answers)
{
	key->lower = answers ? *dest : *source;
	key->upper = answers ? *source : *dest;
	key->lower_port = id;
	key->upper_port = bpf_htons(type);
	return answers;
}

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id;
	__be16 sequence;
};

static __always_inline enum kind icmp_kind(__u8 protocol, __u8 type)
{
	if (protocol == IPPROTO_ICMPV6)
		return type == 128 ? QUERY : type == 129 ? ANSWER : type < 128 ? PROBLEM : SINGLE;
	switch (type) {
	case 8:
	case 13:
		return QUERY;
	case 0:
	case 14:
		return ANSWER;
	case 3: /* unreachable, time exceeded, parameter problem */
	case 11:
	case 12:
		return PROBLEM;
	}
	return SINGLE;
}

/* The type of the question that an answer is for. */
static __always_inline __u8 asked(__u8 protocol, __u8 type)
{
	return protocol == IPPROTO_ICMPV6 ? 128 : type ? 13 : 8;
}

/* What never leaves a link, and is not let onto it by any router: RFC 4861, 6.1 and 7.1; RFC 3810, 5. */
static __always_inline bool is_of_link(const struct lab_packet *pkt, __u8 type)
{
	if (pkt->protocol != IPPROTO_ICMPV6 || (void *)(pkt->ip6 + 1) > pkt->end)
		return false;
	if (type >= 133 && type <= 136)
		return pkt->ip6->hop_limit == 255;
	return ((type >= 130 && type <= 132) || type == 143) && pkt->ip6->hop_limit == 1;
}

static __always_inline enum outcome read_icmp(const struct lab_packet *pkt, struct packet *packet,
					      const struct in6_addr *source, const struct in6_addr *dest, void *data)
{
	const struct icmp *icmp = pkt->l4;

	if (pkt->l4_bytes < sizeof(*icmp) || (void *)(icmp + 1) > pkt->end)
		return MALFORMED;
	if (is_of_link(pkt, icmp->type))
		return NEIGHBOUR;
	packet->kind = icmp_kind(pkt->protocol, icmp->type);
	if (packet->kind == QUERY || packet->kind == ANSWER) {
		bool answers = packet->kind == ANSWER;
		__u8 type = answers ? asked(pkt->protocol, icmp->type) : icmp->type;

		packet->side = order_query(&packet->key, source, dest, icmp->id, type, answers);
		return OUTCOMES;
	}
	packet->quoted = (void *)(icmp + 1) - data;
	packet->side = order_query(&packet->key, source, dest, 0, icmp->type, false);
	return OUTCOMES;
}

static __always_inline bool is_icmp(const struct lab_packet *pkt)
{
	return pkt->protocol == (pkt->family == ETH_P_IP ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* A frame that is not IP behind two tags: is there a third? */
static __always_inline bool has_third_tag(const struct lab_packet *pkt)
{
	const struct lab_vlan *tags = (void *)(pkt->eth + 1);

	if (pkt->vlans < LAB_MAX_VLANS || (void *)(tags + LAB_MAX_VLANS) > pkt->end)
		return false;
	return tags[1].protocol == bpf_htons(ETH_P_8021Q) || tags[1].protocol == bpf_htons(ETH_P_8021AD);
}

/* OUTCOMES when the sessions must be asked, else what becomes of it anyway. */
static __always_inline enum outcome read_packet(struct lab_packet *pkt, void *data, struct packet *packet)
{
	struct in6_addr source, dest;

	if (!lab_read_ends(pkt, &source, &dest))
		return MALFORMED;
	packet->key.protocol = pkt->protocol;
	packet->fragment = pkt->fragment;
	packet->fragment_id = pkt->fragment_id;
	packet->family = bpf_htons(pkt->family);
	if (pkt->later_fragment) {
		packet->side = order_query(&packet->key, &source, &dest, 0, 0, false);
		return STRAY_FRAGMENT;
	}
	if (is_icmp(pkt))
		return read_icmp(pkt, packet, &source, &dest, data);
	if (lab_parse_ports(pkt) != LAB_OK)
		return MALFORMED;
	packet->side = order(&packet->key, &source, &dest, pkt->sport, pkt->dport);
	if (pkt->protocol == IPPROTO_UDP && !is_whole_udp(pkt))
		return MALFORMED;
	if (pkt->protocol != IPPROTO_TCP)
		return OUTCOMES;
	if (!read_tcp(pkt, &packet->tcp))
		return MALFORMED;
	return makes_sense(packet->tcp.flags) ? OUTCOMES : BAD_FLAGS;
}

/* The same from the frame on. A call of its own: it may be made twice, and the verifier proves it once. */
__noinline int read_frame(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct lab_packet pkt;
	struct work *work;
	__u32 only = 0;

	work = bpf_map_lookup_elem(&works, &only);
	if (!work)
		return MALFORMED;
	switch (lab_parse_start(&pkt, data, end, skb->len)) {
	case LAB_OK:
		return read_packet(&pkt, data, &work->packet);
	case LAB_NOT_IP:
		return has_third_tag(&pkt) ? TOO_DEEP : NOT_IP;
	case LAB_TOO_DEEP:
		return TOO_DEEP;
	default:
		return MALFORMED;
	}
}

/* Of a frame whose payload lies elsewhere, what a header lacks is fetched: the usual ones, then as much as there may
 * be. */
static __always_inline enum outcome read_whole(struct __sk_buff *skb)
{
	enum outcome outcome = read_frame(skb);

#pragma unroll
	for (int attempt = 0; attempt < 2; attempt++) {
		__u32 most = attempt ? MOST_BYTES : HEADER_BYTES, wanted = skb->len < most ? skb->len : most;

		if (outcome != MALFORMED)
			break;
		if ((void *)(long)skb->data + wanted <= (void *)(long)skb->data_end)
			continue;
		if (bpf_skb_pull_data(skb, wanted))
			break;
		outcome = read_frame(skb);
	}
	return outcome;
}

/* ---- Fragments ---- */

static __always_inline void name_datagram(struct datagram *datagram, const struct packet *packet)
{
	const struct key *key = &packet->key;

	__builtin_memset(datagram, 0, sizeof(*datagram));
	datagram->source = packet->side ? key->upper : key->lower;
	datagram->dest = packet->side ? key->lower : key->upper;
	datagram->id = packet->fragment_id;
	datagram->direction = packet->direction;
	if (packet->family == bpf_htons(ETH_P_IP))
		datagram->protocol = key->protocol;
}

__noinline int remember_datagram(const struct packet *packet)
{
	struct datagram datagram;
	__u32 now_ms; /* before 6.2 the helper takes no pointer that a function was given */

	if (!packet)
		return 0;
	now_ms = packet->now_ms;
	name_datagram(&datagram, packet);
	bpf_map_update_elem(&fragment_map, &datagram, &now_ms, BPF_ANY);
	return 0;
}

__noinline int judge_fragment(const struct packet *packet)
{
	struct datagram datagram;
	__u32 *first_ms;

	if (!packet)
		return STRAY_FRAGMENT;
	name_datagram(&datagram, packet);
	first_ms = bpf_map_lookup_elem(&fragment_map, &datagram);
	return first_ms && packet->now_ms - *first_ms < FRAGMENT_MS ? FRAGMENT : STRAY_FRAGMENT;
}

/* ---- The policy ---- */

static __always_inline const struct policy *policy_in_force(void)
{
	__u32 only = 0;
	void *inner = bpf_map_lookup_elem(&policy_map, &only);

	return inner ? bpf_map_lookup_elem(inner, &only) : NULL;
}

static __always_inline const struct bitmap *bitmap_at(const struct policy *policy, __u32 number)
{
	__u32 place = policy->half * BITMAPS + number;

	return bpf_map_lookup_elem(&bitmaps, &place);
}

static __always_inline const struct bitmap *rules_of_address(const struct policy *policy, __u32 side,
							     const struct in6_addr *address)
{
	struct prefix key = { .bits = 160, .table = 2 * policy->half + side, .address = *address };
	const __u32 *number = bpf_map_lookup_elem(&prefixes, &key);

	return number ? bitmap_at(policy, *number) : NULL;
}

static __always_inline const struct bitmap *rules_of_port(const struct policy *policy, __u32 side, __be16 port)
{
	__u32 table = 2 * policy->half + side;
	const struct port_sets *sets = bpf_map_lookup_elem(&port_sets, &table);

	return sets ? bitmap_at(policy, sets->of[bpf_ntohs(port)]) : NULL;
}

static __always_inline const struct bitmap *rules_of_protocol(const struct policy *policy, enum direction direction,
							      __u8 protocol)
{
	__u32 table = 2 * policy->half + direction;
	const struct protocol_sets *sets = bpf_map_lookup_elem(&protocol_sets, &table);

	return sets ? bitmap_at(policy, sets->of[protocol]) : NULL;
}

/* The bits below the lowest that is set, counted without a branch: the verifier would follow each. */
static __always_inline __u32 lowest_bit(__u64 word)
{
	__u64 below = ~word & (word - 1);

	below -= below >> 1 & 0x5555555555555555;
	below = (below & 0x3333333333333333) + (below >> 2 & 0x3333333333333333);
	below = (below + (below >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return below * 0x0101010101010101 >> 56;
}

static __always_inline __u32 by_default(const struct policy *policy, enum direction direction)
{
	__u32 slot = direction == INGRESS ? DEFAULT_INGRESS : DEFAULT_EGRESS;

	return slot | (policy->allows[direction & 1] ? ALLOWED : 0) | (policy->logs[direction & 1] ? TOLD : 0);
}

/*
 * Of 64 rules those that match, the strongest first: what the first says that decides, or 0; those that log are told.
 * Not static, like some below: the verifier proves it once, for any arguments, and not again on every path to it.
 */
__noinline __u32 decide_in_word(const struct packet *packet, __u32 first, __u64 match, __u32 from)
{
	for (__u32 bits = 0; bits < 64 && match; bits++) {
		__u32 place = first + lowest_bit(match);
		const struct rule *rule = bpf_map_lookup_elem(&rules, &place);

		if (!rule || !packet)
			return 0;
		if (rule->action != LOG)
			return (rule->slot & SLOT_MASK) | (rule->action == ALLOW ? ALLOWED : 0) |
			       (rule->log ? TOLD : 0);
		tell(packet, rule->slot, OUTCOMES, from);
		match &= match - 1;
	}
	return 0;
}

/*
 * The slot of the rule that decides on a session that the side `from` opens in this direction, with ALLOWED if it is,
 * and TOLD if that is to be told. Each of five tables says by one bit which rules match; the lowest in all is it.
 */
__noinline __u32 decide(const struct packet *packet, const struct policy *policy, __u32 from, enum direction direction)
{
	const struct bitmap *source, *dest, *sport, *dport, *protocol;
	const struct key *key;

	if (!packet || !policy)
		return 0;
	key = &packet->key;
	source = rules_of_address(policy, 0, from ? &key->upper : &key->lower);
	dest = rules_of_address(policy, 1, from ? &key->lower : &key->upper);
	sport = rules_of_port(policy, 0, from ? key->upper_port : key->lower_port);
	dport = rules_of_port(policy, 1, from ? key->lower_port : key->upper_port);
	protocol = rules_of_protocol(policy, direction, key->protocol);
	if (!source || !dest || !sport || !dport || !protocol)
		return by_default(policy, direction);
	for (__u32 at = 0; at < RULE_WORDS && at < policy->words; at++) {
		__u64 match =
			source->words[at] & dest->words[at] & sport->words[at] & dport->words[at] & protocol->words[at];
		__u32 answer = match ? decide_in_word(packet, policy->half * RULES + at * 64, match, from) : 0;

		if (answer)
			return answer;
	}
	return by_default(policy, direction);
}

/* ---- The table of sessions ---- */

/* The rule's slot that let a session through: 0 where who opened it comes in and the replies go out, 1 the other way.
 */
static __always_inline __u32 through(const struct session *session, __u32 crossing)
{
	return session->let_through >> (8 + SLOT_BITS * crossing) & SLOT_MASK;
}

static __always_inline void let_through(struct session *session, __u32 crossing, __u32 slot)
{
	__u32 shift = 8 + SLOT_BITS * crossing;

	session->let_through = (session->let_through & ~(SLOT_MASK << shift)) | (slot & SLOT_MASK) << shift;
}

static __always_inline __u32 opener_of(const struct session *session)
{
	return session->sent[0] & OPENER ? 0 : 1;
}

static __always_inline __u8 protocol_of(const struct session *session)
{
	return session->let_through & 0xff;
}

static __always_inline enum flow_state state_of(const struct session *session)
{
	if (protocol_of(session) == IPPROTO_TCP)
		return tcp_state(session->sent[0], session->sent[1]);
	return session->sent[0] & session->sent[1] & KNOWN ? TWO_WAY : ONE_WAY;
}

static __always_inline __u32 idle_limit_ms(const struct session *session, const struct policy *policy)
{
	__u8 protocol = protocol_of(session);

	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		return policy->icmp_idle_ms;
	return policy->idle_ms[state_of(session) & 15];
}

/* Another CPU's tick may have been a little later than this one's. Let through nowhere: revoked. */
static __always_inline bool is_over(const struct session *session, const struct policy *policy, __u32 now_ms)
{
	return !(session->let_through >> 8) ||
	       now_ms - session->heard_ms + SKEW_MS > idle_limit_ms(session, policy) + SKEW_MS;
}

static __always_inline bool is_same(const struct session *session, const struct key *key)
{
	const __u64 *x = (const __u64 *)session, *y = (const __u64 *)key;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | ((x[4] ^ y[4]) & 0xffffffffff));
}

/*
 * Which way of a bucket has the session of a key, WAYS: none. The verifier would go on with every way as a path of its
 * own: what was exclusive-ored twice with a hash's bits it does not recognise.
 */
static __always_inline __u32 find_in(const struct tags *tags, const struct bucket *bucket, __u16 tag,
				     const struct key *key)
{
	__u32 way = 0, unknown = tags->of[0];

	for (; way < WAYS; way++)
		if (tags->of[way] == tag && is_same(&bucket->sessions[way], key))
			break;
	asm volatile("%0 ^= %1\n%0 ^= %1" : "+r"(way) : "r"(unknown));
	return way;
}

static __always_inline __u32 hash_of(const struct key *key)
{
	return lab_jhash((const __u32 *)key, sizeof(*key) / 4, hash_seed);
}

/* From the same bits, mixed: which bucket of the group is the second, and what tells sessions in a bucket apart. */
static __always_inline __u32 second_hash(__u32 hash)
{
	hash ^= hash >> 15;
	hash *= 0x2c1b3c6d; /* from lowbias32, https://nullprogram.com/blog/2018/07/31/ */
	return hash ^ hash >> 12;
}

static __always_inline __u16 tag_of(__u32 second)
{
	return second >> 16 ?: 1;
}

static __always_inline __u32 first_bucket(__u32 hash)
{
	return ((__u64)hash * bucket_count) >> 32; /* as even as a modulo, without the division */
}

static __always_inline __u32 second_bucket(__u32 first, __u32 second)
{
	__u32 mask = (bucket_count < GROUP ? bucket_count : GROUP) - 1;

	return (first & ~mask) | (second & mask);
}

/* The session of a key, ended ones too; NULL: there is none. */
static __always_inline struct session *look_up(const struct key *key)
{
	__u32 hash = hash_of(key), second = second_hash(hash), at = first_bucket(hash), way;
	struct bucket *bucket = bpf_map_lookup_elem(&session_map, &at);
	struct tags *tags = bpf_map_lookup_elem(&tag_map, &at);

	if (!tags || !bucket)
		return NULL;
	way = find_in(tags, bucket, tag_of(second), key);
	if (way >= WAYS) {
		at = second_bucket(at, second);
		tags = bpf_map_lookup_elem(&tag_map, &at);
		bucket = bpf_map_lookup_elem(&session_map, &at);
		if (!tags || !bucket)
			return NULL;
		way = find_in(tags, bucket, tag_of(second), key);
	}
	return way < WAYS ? &bucket->sessions[way & (WAYS - 1)] : NULL;
}

static __always_inline bool find_home(struct home *home, const struct key *key)
{
	__u32 hash = hash_of(key), second = second_hash(hash), guard;

	home->tag = tag_of(second);
	home->at[0] = first_bucket(hash);
	home->at[1] = second_bucket(home->at[0], second);
	guard = home->at[0] / GROUP & (GUARDS - 1);
	home->guard = bpf_map_lookup_elem(&guards, &guard);
#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		home->tags[choice] = bpf_map_lookup_elem(&tag_map, &home->at[choice]);
		home->buckets[choice] = bpf_map_lookup_elem(&session_map, &home->at[choice]);
		if (!home->tags[choice] || !home->buckets[choice])
			return false;
	}
	return home->guard;
}

/* The same, where it must be. */
static __always_inline struct session *find_at(const struct home *home, const struct key *key)
{
	__u32 way = find_in(home->tags[0], home->buckets[0], home->tag, key);
	struct bucket *bucket = home->buckets[0];

	if (way >= WAYS) {
		way = find_in(home->tags[1], home->buckets[1], home->tag, key);
		bucket = home->buckets[1];
	}
	return way < WAYS ? &bucket->sessions[way & (WAYS - 1)] : NULL;
}

/* ---- A packet in its session ---- */

/* 0: the interface lets in what the opener sends, and out what is answered; 1: the other way round. */
static __always_inline __u32 crossing_of(const struct session *session, __u32 side, enum direction direction)
{
	return (direction ^ (side != opener_of(session))) & 1;
}

static __always_inline void tcp_sides(const struct session *session, __u32 side, struct tcp_side *mine,
				      struct tcp_side *other)
{
	mine->isn = session->ends[side & 1].isn;
	mine->next_seq = session->ends[side & 1].next_seq;
	mine->sent = session->sent[side & 1];
	other->isn = session->ends[!side].isn;
	other->next_seq = session->ends[!side].next_seq;
	other->sent = session->sent[!side];
}

/* Whether a segment may come now, by what both sides have sent. */
static __always_inline bool fits(enum flow_state state, const struct tcp_side *mine, const struct tcp_side *other,
				 const struct tcp_news *news)
{
	if (news->flags & TCP_RST)
		return reset_fits(state, mine, other, news);
	if (answers_another(other, news))
		return false;
	/* Nobody has acknowledged a SYN: anything else would prolong what may never become a connection. */
	if ((state == SYN_SENT || state == SYN_CROSSED) && (mine->sent | other->sent) & SENT_SYN)
		return news->flags & TCP_SYN;
	return true;
}

/* Brings a session up to date with a packet of it; false when the packet does not fit. */
static __always_inline bool follow(struct session *session, const struct packet *packet)
{
	__u32 side = packet->side & 1;
	struct tcp_side mine = {}, other = {};
	enum flow_state state, next;

	if (packet->key.protocol != IPPROTO_TCP) {
		if (!(session->sent[side] & KNOWN))
			session->sent[side] |= KNOWN;
		/* Written only when it changes: the two directions may run on two CPUs. */
		if (session->heard_ms != packet->now_ms)
			session->heard_ms = packet->now_ms;
		return true;
	}
	tcp_sides(session, side, &mine, &other);
	state = tcp_state(mine.sent, other.sent);
	if (!fits(state, &mine, &other, &packet->tcp))
		return false;
	next = follow_tcp(state, &mine, &other, &packet->tcp);
	if (session->ends[side].next_seq != mine.next_seq) {
		session->ends[side].isn = mine.isn;
		session->ends[side].next_seq = mine.next_seq;
	}
	if (session->sent[side] != mine.sent)
		session->sent[side] = mine.sent;
	if (session->sent[!side] != other.sent)
		session->sent[!side] = other.sent;
	if (session->heard_ms != packet->now_ms && (next < TIME_WAIT || next != state))
		session->heard_ms = packet->now_ms;
	return true;
}

static __always_inline bool begins_anew(const struct session *session, const struct packet *packet)
{
	struct tcp_side mine = {}, other;

	if (packet->key.protocol != IPPROTO_TCP)
		return false;
	tcp_sides(session, packet->side, &mine, &other);
	return tcp_begins_anew(state_of(session), &mine, &packet->tcp);
}

static __always_inline bool is_alive(const struct session *session, const struct packet *packet,
				     const struct policy *policy)
{
	return session && !is_over(session, policy, packet->now_ms) && !begins_anew(session, packet);
}

static __always_inline bool is_current(const struct session *session, const struct policy *policy)
{
	return !policy->rechecks || session->generation == (__u16)policy->generation;
}

/* OUTCOMES: a rule must be asked. */
static __always_inline enum outcome go_on(struct session *session, struct packet *packet, const struct policy *policy)
{
	__u32 slot;

	if (!is_alive(session, packet, policy) || !is_current(session, policy))
		return OUTCOMES;
	slot = through(session, crossing_of(session, packet->side, packet->direction));
	if (!slot)
		return OUTCOMES;
	packet->slot = slot;
	return follow(session, packet) ? IN_SESSION : INVALID;
}

/* The same from its look-up on, for rare cases: a call of its own. */
__noinline int proceed(struct packet *packet, const struct policy *policy)
{
	struct session *session;

	if (!packet || !policy)
		return UNSOLICITED;
	session = look_up(&packet->key);
	return session ? go_on(session, packet, policy) : OUTCOMES;
}

/* ---- Sessions begin and end ---- */

static __always_inline bool may_open(const struct packet *packet)
{
	__u8 decisive = packet->tcp.flags & TCP_DECISIVE;

	if (packet->kind != CONVERSATION)
		return packet->kind == QUERY || packet->kind == SINGLE;
	if (packet->key.protocol != IPPROTO_TCP || decisive == TCP_SYN)
		return true;
	return adopt && (decisive & (TCP_ACK | TCP_RST)) == TCP_ACK;
}

static __always_inline void begin(struct session *session, const struct packet *packet, const struct policy *policy,
				  __u32 slot)
{
	__u32 side = packet->side & 1;

	/* Nobody takes it for another one's in between: without a rule it is over, and its key comes last. */
	session->let_through = 0;
	asm volatile("" ::: "memory");
	session->generation = policy->generation;
	session->heard_ms = packet->now_ms;
	session->sent[side] = OPENER;
	session->sent[!side] = 0;
	__builtin_memset(session->ends, 0, sizeof(session->ends));
	session->lower = packet->key.lower;
	session->upper = packet->key.upper;
	session->lower_port = packet->key.lower_port;
	session->upper_port = packet->key.upper_port;
	session->let_through = packet->key.protocol & 0xff;
	let_through(session, packet->direction, slot);
}

/*
 * What a session is worth when its place is needed: 0 if it is over, else more if it was ever answered, and more the
 * later it was heard of.
 */
__noinline __u64 worth(const struct policy *policy, __u32 at, __u32 way, __u32 now_ms)
{
	const struct bucket *bucket = bpf_map_lookup_elem(&session_map, &at);
	const struct session *session;
	enum flow_state state;
	__u64 rank;

	if (!bucket || !policy)
		return ~0ULL;
	session = &bucket->sessions[way & (WAYS - 1)];
	if (is_over(session, policy, now_ms))
		return 0;
	state = state_of(session);
	rank = state == TWO_WAY || state >= ESTABLISHED ? 2 : 1;
	return rank << 32 | (__u32)(session->heard_ms - now_ms - SKEW_MS);
}

/* Of the sixteen sessions of two full buckets the least worthy: its way, of the second bucket if WAYS is added. */
__noinline __u32 least_worthy(const struct policy *policy, __u32 first, __u32 second, __u32 now_ms)
{
	__u64 least = ~0ULL;
	__u32 chosen = 0;

	if (!policy)
		return NOBODY;
	for (__u32 each = 0; each < 2 * WAYS; each++) {
		__u64 value = worth(policy, each & WAYS ? second : first, each, now_ms);

		if (value < least) {
			least = value;
			chosen = each;
		}
	}
	if (!least)
		return chosen;
	return policy->full == EVICT ? chosen | EVICTING : NOBODY;
}

/* Of four numbers of 16 bits those that are not 0, without a branch: the verifier would follow each. */
static __always_inline __u32 nonzero(__u64 lanes)
{
	lanes = (((lanes & 0x7fff7fff7fff7fff) + 0x7fff7fff7fff7fff) | lanes) & 0x8000800080008000;
	return (lanes >> 15) * 0x0001000100010001 >> 48;
}

static __always_inline __u32 used(const struct tags *tags)
{
	return nonzero(tags->fours[0]) + nonzero(tags->fours[1]);
}

/* A free place, by its way as above; NOBODY: there is none. */
static __always_inline __u32 free_way(const struct home *home)
{
	__u32 first = used(home->tags[0]), second = used(home->tags[1]);
	__u32 choice = first >= PREFERRED && second < first;
	const struct tags *tags = choice ? home->tags[1] : home->tags[0];

	__u32 way = 0;

	if (first + second == 2 * WAYS)
		return NOBODY;
	while (way < WAYS - 1 && tags->of[way])
		way++;
	asm volatile("%0 ^= %1\n%0 ^= %1" : "+r"(way) : "r"(first)); /* as in find_in() */
	return way | (choice ? WAYS : 0);
}

/* Puts a session into a place, under the lock. */
static __always_inline struct session *take(struct home *home, __u32 way, const struct packet *packet,
					    const struct policy *policy, __u32 slot)
{
	struct bucket *bucket = way & WAYS ? home->buckets[1] : home->buckets[0];
	struct tags *tags = way & WAYS ? home->tags[1] : home->tags[0];
	struct session *session = &bucket->sessions[way & (WAYS - 1)];

	tags->of[way & (WAYS - 1)] = 0;
	begin(session, packet, policy, slot);
	tags->of[way & (WAYS - 1)] = home->tag;
	return session;
}

/*
 * Lets the session of a packet through here, and makes it if there is none. Two CPUs may come at once, with the same
 * packet's other copy even: whoever is second finds the session of the first. The helper calls that look for a session
 * to replace cannot be made under the lock; it is looked at again then.
 */
__noinline int open_session(struct packet *packet, const struct policy *policy, __u32 slot)
{
	struct session *ended, *session;
	__u32 way = NOBODY;
	bool evicted = false;
	struct home home;

	if (!packet || !policy || !find_home(&home, &packet->key))
		return NO_ROOM;
	ended = look_up(&packet->key);
	if (ended && is_alive(ended, packet, policy))
		ended = NULL;
	if (!ended && used(home.tags[0]) + used(home.tags[1]) == 2 * WAYS) {
		way = least_worthy(policy, home.at[0], home.at[1], packet->now_ms);
		evicted = way != NOBODY && way & EVICTING;
	}

	bpf_spin_lock(&home.guard->lock);
	session = find_at(&home, &packet->key);
	if (session && session == ended) {
		begin(session, packet, policy, slot);
	} else if (session) {
		let_through(session, crossing_of(session, packet->side, packet->direction), slot);
		evicted = false;
	} else {
		if (way == NOBODY)
			way = free_way(&home);
		if (way != NOBODY)
			session = take(&home, way, packet, policy, slot);
	}
	bpf_spin_unlock(&home.guard->lock);

	if (evicted)
		count(EVICTED, packet->direction, 1, 0);
	if (!session)
		return policy->full == OPEN ? UNTRACKED : NO_ROOM;
	return OPENED;
}

/* A session's rules asked again, as if it opened now; false when it may not go on where this packet is. */
static __always_inline bool recheck(struct session *session, struct packet *packet, const struct policy *policy)
{
	__u32 here = crossing_of(session, packet->side, packet->direction), from = opener_of(session), answer;
	__u32 before = through(session, here);

	for (__u32 crossing = 0; crossing < 2; crossing++) {
		if (!through(session, crossing))
			continue;
		answer = decide(packet, policy, from, crossing);
		let_through(session, crossing, answer & ALLOWED ? answer & SLOT_MASK : 0);
		if (crossing != here || answer & ALLOWED)
			continue;
		packet->slot = answer & SLOT_MASK;
		if (answer & TOLD)
			tell(packet, packet->slot, REVOKED, from);
	}
	session->generation = policy->generation;
	return !before || through(session, here);
}

/* What is of no session that goes on by itself; a call of its own, so that the code of all others stays small. */
__noinline int judge(struct packet *packet, const struct policy *policy)
{
	struct session *session;
	enum outcome outcome;
	__u32 answer;

	if (!packet || !policy)
		return DENIED;
	session = packet->kind == SINGLE ? NULL : look_up(&packet->key);
	if (session && is_alive(session, packet, policy)) {
		if (!is_current(session, policy) && !recheck(session, packet, policy))
			return REVOKED;
		outcome = proceed(packet, policy);
		if (outcome != OUTCOMES)
			return outcome;
		if (packet->side != opener_of(session))
			return UNSOLICITED;
	} else if (!may_open(packet)) {
		return UNSOLICITED;
	}
	answer = decide(packet, policy, packet->side, packet->direction);
	packet->slot = answer & SLOT_MASK;
	outcome = DENIED;
	if (answer & ALLOWED)
		outcome = packet->kind == SINGLE ? STATELESS : open_session(packet, policy, packet->slot);
	if (outcome == OPENED)
		proceed(packet, policy);
	if (answer & TOLD)
		tell(packet, packet->slot, outcome, packet->side);
	return outcome;
}

/* ---- ICMP errors ---- */

/* The key of the packet that an error quotes, of which there are 8 bytes of transport header at least (RFC 792). */
static __always_inline bool read_quoted(struct lab_packet *pkt, struct packet *quoted)
{
	struct in6_addr source, dest;
	const struct icmp *icmp = pkt->l4;
	const __be32 *words = pkt->l4;

	if (pkt->later_fragment || (void *)(words + 2) > pkt->end || !lab_read_ends(pkt, &source, &dest))
		return false;
	quoted->key.protocol = pkt->protocol;
	if (is_icmp(pkt)) {
		bool answers = icmp_kind(pkt->protocol, icmp->type) == ANSWER;
		__u8 type = answers ? asked(pkt->protocol, icmp->type) : icmp->type;

		quoted->side = order_query(&quoted->key, &source, &dest, icmp->id, type, answers);
		return true;
	}
	pkt->l4_bytes = sizeof(*words) * 2;
	if (lab_parse_ports(pkt) != LAB_OK)
		return false;
	quoted->side = order(&quoted->key, &source, &dest, pkt->sport, pkt->dport);
	quoted->tcp.seq = bpf_ntohl(words[1]);
	return true;
}

/* The error goes to who sent the quoted packet, and that packet belongs to a session that is let through here. */
static __always_inline enum outcome judge_quoted(struct packet *packet, struct packet *quoted,
						 const struct policy *policy)
{
	const struct in6_addr *sender = quoted->side ? &quoted->key.upper : &quoted->key.lower;
	struct session *session;
	__u32 side = quoted->side & 1;

	if (!is_equal(sender, &packet->key.upper))
		return UNSOLICITED;
	session = look_up(&quoted->key);
	if (!session || is_over(session, policy, packet->now_ms))
		return UNSOLICITED;
	/* RFC 5927, 4.1 in the large: who did not see the connection does not know its numbers. */
	if (quoted->key.protocol == IPPROTO_TCP && session->sent[side] & KNOWN &&
	    !is_near(quoted->tcp.seq, session->ends[side].next_seq))
		return INVALID;
	quoted->side = !side; /* it goes the way of an answer */
	if (!is_current(session, policy) && !recheck(session, quoted, policy))
		return REVOKED;
	packet->slot = through(session, crossing_of(session, !side, packet->direction));
	return packet->slot ? RELATED : UNSOLICITED;
}

__noinline int judge_problem(struct __sk_buff *skb, const struct policy *policy)
{
	struct packet *packet, *quoted;
	struct work *work;
	__u32 wanted, only = 0;
	struct lab_packet pkt = {};
	void *data, *end;

	work = bpf_map_lookup_elem(&works, &only);
	if (!work || !policy)
		return UNSOLICITED;
	packet = &work->packet;
	quoted = &work->quoted;
	__builtin_memset(quoted, 0, sizeof(*quoted));
	quoted->direction = packet->direction;
	quoted->ifindex = packet->ifindex;
	quoted->now_ms = packet->now_ms;
	wanted = packet->quoted + QUOTED_BYTES;
	if (wanted > skb->len)
		wanted = skb->len;
	if ((void *)(long)skb->data + wanted > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, wanted);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	pkt.eth = data;
	pkt.end = end;
	if (data + sizeof(struct ethhdr) > end)
		return MALFORMED;
	if (lab_parse_network(&pkt, packet->family, data, data + (packet->quoted & 0x3fff), LAB_QUOTED_BYTES) != LAB_OK)
		return MALFORMED;
	if (!read_quoted(&pkt, quoted))
		return UNSOLICITED;
	return judge_quoted(packet, quoted, policy);
}

/* ---- Hooks ---- */

static __always_inline int segment(struct __sk_buff *skb, enum direction direction)
{
	const struct policy *policy = policy_in_force();
	struct session *session;
	struct packet *packet;
	enum outcome outcome;
	struct work *work;
	__u32 only = 0;

	work = bpf_map_lookup_elem(&works, &only);
	if (!work || !policy)
		return TC_ACT_SHOT;
	packet = &work->packet;
	__builtin_memset(packet, 0, sizeof(*packet));
	packet->direction = direction;
	packet->bytes = skb->len;
	packet->ifindex = skb->ifindex;
	packet->packets = skb->gso_segs ?: 1;
	outcome = read_whole(skb);
	if (outcome != OUTCOMES && outcome != STRAY_FRAGMENT)
		return finish(packet, outcome);
	packet->now_ms = lab_now_ns() / NS_PER_MS;
	if (outcome == STRAY_FRAGMENT)
		return finish(packet, judge_fragment(packet));
	if (packet->kind == PROBLEM)
		return finish(packet, judge_problem(skb, policy));
	session = look_up(&packet->key);
	if (session)
		outcome = go_on(session, packet, policy);
	if (outcome == OUTCOMES)
		outcome = judge(packet, policy);
	if (packet->fragment && outcome < DENIED)
		remember_datagram(packet);
	return finish(packet, outcome);
}

SEC("tc/ingress")
int segment_ingress(struct __sk_buff *skb)
{
	return segment(skb, INGRESS);
}

SEC("tc/egress")
int segment_egress(struct __sk_buff *skb)
{
	return segment(skb, EGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
