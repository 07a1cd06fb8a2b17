/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * tc_shape_traffic: holds classes of traffic to a rate each: at egress by delay, or by drops or ECN marks; at ingress
 * by drops or ECN marks.
 *
 * A class has a rate and a burst, which are a token bucket. Rules by remote prefix, port or DSCP say which class a
 * packet is in; of the rules that match, the one of the highest priority decides (of equal ones the higher class), and
 * class 0 has what no rule names. The link may have a rate, too: then classes that borrow use what others leave of it.
 *
 * Four programs; attach one of the first three, and where it is shape_by_drop, the fourth beside it:
 *   shape_by_delay   tc egress. The interface's root qdisc must be fq: it holds a packet until the departure time that
 *                    is written on it
 *   shape_by_drop    tc egress, without a qdisc
 *   police           tc ingress
 *   pace             sock_ops of a cgroup: has its TCP sockets pace themselves at their class's rate. TCP that meets
 *                    drops alone is still for 200 ms after each, much longer than the burst lasts
 *
 * DECISIONS for a packet whose class has a rate. Its bytes are the wire's: each segment of a GSO or GRO frame, with
 * headers.
 *   the class has tokens, or its bucket is full           TC_ACT_UNSPEC; they are taken, of the link's too. A frame
 *                                                         longer than the burst leaves a debt
 *   it has none, borrows, and the link has                TC_ACT_UNSPEC; taken of the link's. A class of priority n
 *                                                         leaves n eighths of the link's burst to those before it
 *   neither, by delay                                     TC_ACT_UNSPEC with the departure time at which it has, or
 *                                                         TC_ACT_SHOT where that is more than horizon_ns away
 *   neither, over MARK, an ECN-capable packet             TC_ACT_UNSPEC, marked CE, up to a second burst beyond
 *   neither, else                                         TC_ACT_SHOT
 *   class without a rate; ARP and other than IP           TC_ACT_UNSPEC
 *   later fragment, malformed, too many headers           by what can be read of it: prefix and DSCP, or class 0
 *
 * KNOBS (const volatile, set before load)
 *   horizon_ns 2000000000   the longest delay
 *   overhead_bytes 0        per frame on the wire, beyond what the kernel sees: 24 for Ethernet's preamble, FCS and gap
 *   coarse_clock false      true: time is as of the last tick, which saves 30 ns a packet. For bursts of several ticks
 *                           (1 to 10 ms each) only. Not for shape_by_delay
 *
 * MAPS
 *   classes      what a class may: enum class_of_link is the link. Changed at any time
 *   buckets      when each bucket is full again, CLOCK_MONOTONIC: all there is to a token bucket
 *   by_prefix    remote prefix (IPv4 as ::ffff:a.b.c.d) -> rule. Looked at while `prefixes` is not 0
 *   by_port      TCP, UDP, SCTP port, host order, of either end -> rule
 *   by_dscp      DSCP -> rule
 *   A rule is its priority + 1 in the upper byte and its class in the lower; 0 is none.
 *   counts       by class; per CPU
 *
 * SEVERAL CPUs share a bucket by compare-and-swap: no lock, and no token is spent twice.
 *
 * KERNEL 5.12 or later (compare-and-swap). Tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   Without fq and pace: TCP of other machines, or of another cgroup, stays far below its rate where that is a small
 *   part of what the path could do. Rules that name a prefix and a port at once. What is inside a tunnel: classified
 *   by its outer header. A rate that an application set itself (SO_MAX_PACING_RATE): pace overwrites it. Several
 *   sockets of a class: each is paced at the class's rate, and drops divide it among them. More than 100 bytes of IPv6
 *   extension headers in a frame whose data lies in pages: class 0.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lab/address.h>
#include <lab/clock.h>
#include <lab/parse.h>

#define CLASSES	      64
#define PREFIXES      1024
#define RETRIES	      8
#define HEADER_BYTES  192 /* Ethernet, two tags, 60 bytes of IPv4 or 100 of IPv6, a TCP header */
#define NS_PER_S      1000000000ULL
#define MOST_PACED    0xfffffffeU /* bytes a second that SO_MAX_PACING_RATE takes: 34 Gbit/s */
#define COST_FRACTION 16	  /* bits of `cost` behind the point */

enum class_of_link {
	LINK = CLASSES,
};

enum over {
	DROP,
	MARK,
};

struct class
{
	__u64 cost;	/* ns a byte takes at the class's rate, times 65536; 0: no limit */
	__u64 burst_ns; /* the burst's bytes at that rate */
	enum over over;
	__u8 borrows;
	__u8 priority; /* 0 to 7, the first is served first */
	__u8 reserved[2];
};

/* A cache line of its own. */
struct bucket {
	__u64 full_ns;
	__u8 reserved[56];
};

struct count {
	__u64 packets; /* that passed, the next three included */
	__u64 bytes;
	__u64 borrowed;
	__u64 marked;
	__u64 delayed;
	__u64 dropped;
	__u64 dropped_bytes;
};

struct prefix {
	__u32 prefixlen;
	struct in6_addr address;
};

const volatile __u64 horizon_ns = 2000000000;
const volatile __u32 overhead_bytes;
const volatile bool coarse_clock;

__u32 prefixes; /* how many rules by_prefix has */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASSES + 1);
	__type(key, __u32);
	__type(value, struct class);
} classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASSES + 1);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u16);
} by_prefix SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u16);
} by_port SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u16);
} by_dscp SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CLASSES);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

enum direction {
	INGRESS,
	EGRESS,
};

/* What a packet asks for. */
struct request {
	__u32 class;
	__u32 bytes;
	__u64 now;
};

/* ---- Classes ---- */

static __always_inline __u32 rule_in(void *map, __u32 key)
{
	const __u16 *rule = bpf_map_lookup_elem(map, &key);

	return rule ? *rule : 0;
}

static __always_inline __u32 stronger(__u32 one, __u32 other)
{
	return one > other ? one : other;
}

static __always_inline __u32 rule_of_prefix(const struct lab_packet *pkt, enum direction direction)
{
	struct prefix key = { .prefixlen = 128 };
	const __u16 *rule;

	if (pkt->family == ETH_P_IP)
		key.address = lab_mapped(direction == EGRESS ? pkt->ip4->daddr : pkt->ip4->saddr);
	else
		key.address = direction == EGRESS ? pkt->ip6->daddr : pkt->ip6->saddr;
	rule = bpf_map_lookup_elem(&by_prefix, &key);
	return rule ? *rule : 0;
}

static __always_inline __u32 dscp_of(const struct lab_packet *pkt)
{
	if (pkt->family == ETH_P_IP)
		return pkt->ip4->tos >> 2;
	return bpf_ntohs(*(__be16 *)pkt->ip6) >> 6 & 0x3f;
}

/* 0 where no rule matches. */
static __always_inline __u32 class_of(const struct lab_packet *pkt, enum direction direction)
{
	__u32 rule;

	if (!pkt->family)
		return 0;
	rule = rule_in(&by_dscp, dscp_of(pkt));
	if (pkt->sport | pkt->dport) {
		rule = stronger(rule, rule_in(&by_port, bpf_ntohs(pkt->sport)));
		rule = stronger(rule, rule_in(&by_port, bpf_ntohs(pkt->dport)));
	}
	if (prefixes)
		rule = stronger(rule, rule_of_prefix(pkt, direction));
	return rule & (CLASSES - 1);
}

/* ---- Bytes ---- */

static __always_inline __u32 header_bytes(const struct __sk_buff *skb, const struct lab_packet *pkt)
{
	__u32 bytes = pkt->l4 - (void *)(long)skb->data;
	const struct tcphdr *tcp = pkt->l4;

	if (pkt->protocol != IPPROTO_TCP)
		return bytes + 8;
	return (void *)(tcp + 1) <= pkt->end ? bytes + tcp->doff * 4 : bytes + sizeof(*tcp);
}

/*
 * What the wire carries: a GSO frame leaves as segments with headers each, and a GRO frame came so. At egress the
 * kernel has worked that out (wire_len); at ingress it has not.
 */
static __always_inline __u32 wire_bytes(const struct __sk_buff *skb, const struct lab_packet *pkt,
					enum direction direction)
{
	__u32 segments = skb->gso_segs > 1 ? skb->gso_segs : 1;
	__u32 bytes = skb->len;

	if (segments > 1 && direction == EGRESS && skb->wire_len > bytes)
		bytes = skb->wire_len;
	else if (segments > 1 && pkt->family && pkt->l4)
		bytes += (segments - 1) * header_bytes(skb, pkt);
	return bytes + segments * overhead_bytes;
}

/* ---- Buckets ---- */

static __always_inline __u64 cost_ns(const struct class *class, __u32 bytes)
{
	return bytes * class->cost >> COST_FRACTION;
}

/*
 * Takes a packet's cost unless the bucket would then be full again only after `limit_ns` from now, and says when it
 * will be; 0: not taken. A bucket of a burst B holds B minus the time until it is full: the usual token bucket, in one
 * number. A full one gives what it does not have yet, or a GSO frame longer than the burst would never pass.
 */
static __always_inline __u64 take(struct bucket *bucket, __u64 cost, __u64 now, __u64 limit_ns)
{
	__u64 before, after;

	for (int retry = 0; retry < RETRIES; retry++) {
		before = *(volatile __u64 *)&bucket->full_ns;
		after = (before > now ? before : now) + cost;
		if (after - now > limit_ns && before > now)
			return 0;
		if (__sync_val_compare_and_swap(&bucket->full_ns, before, after) == before)
			return after;
	}
	__sync_fetch_and_add(&bucket->full_ns, cost);
	return after;
}

/* The link pays for what a class was promised, whether it has tokens or not; it is never in debt for more than a burst.
 */
static __always_inline void charge_link(__u32 bytes, __u64 now)
{
	__u32 link = LINK;
	const struct class *class = bpf_map_lookup_elem(&classes, &link);
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &link);

	if (class && bucket && class->cost)
		take(bucket, cost_ns(class, bytes), now, 2 * class->burst_ns);
}

static __always_inline bool borrow(const struct class *class, __u32 bytes, __u64 now)
{
	__u32 link = LINK;
	const struct class *of_link = bpf_map_lookup_elem(&classes, &link);
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &link);
	__u64 limit;

	if (!class->borrows || !of_link || !bucket || !of_link->cost)
		return false;
	limit = of_link->burst_ns - (of_link->burst_ns >> 3) * (class->priority & 7);
	return take(bucket, cost_ns(of_link, bytes), now, limit);
}

/* ---- Verdicts ---- */

static __always_inline struct count *count_of(__u32 class)
{
	return bpf_map_lookup_elem(&counts, &class);
}

/* A per-CPU slot: tc runs with bottom halves disabled, so nobody else writes it now. */
static __always_inline int pass(struct count *count, __u32 bytes)
{
	count->packets++;
	count->bytes += bytes;
	return TC_ACT_UNSPEC;
}

static __always_inline int drop(struct count *count, __u32 bytes)
{
	count->dropped++;
	count->dropped_bytes += bytes;
	return TC_ACT_SHOT;
}

/* Over its rate: a mark where the class and the packet know ECN, within one burst more. The packet's pointers end here.
 */
static __always_inline int mark_or_drop(struct __sk_buff *skb, const struct class *class, struct bucket *bucket,
					struct count *count, const struct request *asked)
{
	__u64 cost = cost_ns(class, asked->bytes);

	if (class->over != MARK || bpf_skb_ecn_set_ce(skb) != 1)
		return drop(count, asked->bytes);
	if (!take(bucket, cost, asked->now, 2 * class->burst_ns))
		return drop(count, asked->bytes);
	charge_link(asked->bytes, asked->now);
	count->marked++;
	return pass(count, asked->bytes);
}

static __always_inline int delay(struct __sk_buff *skb, const struct class *class, struct bucket *bucket,
				 struct count *count, const struct request *asked)
{
	__u64 full = take(bucket, cost_ns(class, asked->bytes), asked->now, class->burst_ns + horizon_ns);
	__u64 departure = full - class->burst_ns;

	if (!full)
		return drop(count, asked->bytes);
	charge_link(asked->bytes, asked->now);
	/* TCP may have written a later one, to pace itself. */
	if (departure > skb->tstamp)
		skb->tstamp = departure;
	count->delayed++;
	return pass(count, asked->bytes);
}

/* The request of a packet; whether there is anything to ask for. */
static __always_inline bool read_packet(struct __sk_buff *skb, enum direction direction, struct request *asked)
{
	__u32 wanted = skb->len < HEADER_BYTES ? skb->len : HEADER_BYTES;
	struct lab_packet pkt;
	enum lab_form form;

	if ((void *)(long)skb->data + wanted > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, wanted);
	form = lab_parse_start(&pkt, (void *)(long)skb->data, (void *)(long)skb->data_end, skb->len);
	if (form == LAB_NOT_IP)
		return false;
	if (form == LAB_OK)
		lab_parse_ports(&pkt);
	asked->class = class_of(&pkt, direction);
	asked->bytes = wire_bytes(skb, &pkt, direction);
	return true;
}

static __always_inline int shape(struct __sk_buff *skb, enum direction direction, bool by_delay)
{
	const struct class *class;
	struct request asked;
	struct bucket *bucket;
	struct count *count;

	if (!read_packet(skb, direction, &asked))
		return TC_ACT_UNSPEC;
	class = bpf_map_lookup_elem(&classes, &asked.class);
	bucket = bpf_map_lookup_elem(&buckets, &asked.class);
	count = count_of(asked.class);
	if (!class || !bucket || !count)
		return TC_ACT_UNSPEC;
	if (!class->cost)
		return pass(count, asked.bytes);
	asked.now = coarse_clock && !by_delay ? lab_now_ns() : bpf_ktime_get_ns();
	if (take(bucket, cost_ns(class, asked.bytes), asked.now, class->burst_ns)) {
		charge_link(asked.bytes, asked.now);
		return pass(count, asked.bytes);
	}
	if (borrow(class, asked.bytes, asked.now)) {
		count->borrowed++;
		return pass(count, asked.bytes);
	}
	if (by_delay)
		return delay(skb, class, bucket, count, &asked);
	return mark_or_drop(skb, class, bucket, count, &asked);
}

SEC("tc/egress")
int shape_by_delay(struct __sk_buff *skb)
{
	return shape(skb, EGRESS, true);
}

SEC("tc/egress")
int shape_by_drop(struct __sk_buff *skb)
{
	return shape(skb, EGRESS, false);
}

SEC("tc/ingress")
int police(struct __sk_buff *skb)
{
	return shape(skb, INGRESS, false);
}

/* ---- Pacing by the sockets themselves ---- */

#define FAMILY_IPV4	   2
#define SOL_SOCKET	   1
#define SO_MAX_PACING_RATE 47
#define IP_TOS		   1
#define IPV6_TCLASS	   67
#define FRAME_HEADERS	   66 /* Ethernet, IPv4, TCP with timestamps; 20 more with IPv6 */

static __always_inline __u32 dscp_of_socket(struct bpf_sock_ops *ctx, bool ipv4)
{
	int field = 0;

	if (ipv4)
		bpf_getsockopt(ctx, IPPROTO_IP, IP_TOS, &field, sizeof(field));
	else
		bpf_getsockopt(ctx, IPPROTO_IPV6, IPV6_TCLASS, &field, sizeof(field));
	return field >> 2 & 0x3f;
}

static __always_inline __u32 class_of_socket(struct bpf_sock_ops *ctx, bool ipv4)
{
	struct prefix key = { .prefixlen = 128 };
	const __u16 *found;
	__u32 rule;

	rule = rule_in(&by_dscp, dscp_of_socket(ctx, ipv4));
	rule = stronger(rule, rule_in(&by_port, ctx->local_port & 0xffff));
	rule = stronger(rule, rule_in(&by_port, bpf_ntohl(ctx->remote_port) & 0xffff));
	if (!prefixes)
		return rule & (CLASSES - 1);
	if (ipv4) {
		key.address = lab_mapped(ctx->remote_ip4);
	} else {
		key.address.s6_addr32[0] = ctx->remote_ip6[0];
		key.address.s6_addr32[1] = ctx->remote_ip6[1];
		key.address.s6_addr32[2] = ctx->remote_ip6[2];
		key.address.s6_addr32[3] = ctx->remote_ip6[3];
	}
	found = bpf_map_lookup_elem(&by_prefix, &key);
	return stronger(rule, found ? *found : 0) & (CLASSES - 1);
}

/* The class's rate without the headers, which a socket does not count. A class that borrows may have the link's. */
static __always_inline void set_pace(struct bpf_sock_ops *ctx)
{
	bool ipv4 = ctx->family == FAMILY_IPV4;
	__u32 number = class_of_socket(ctx, ipv4), link = LINK, mss = ctx->mss_cache, rate;
	const struct class *class = bpf_map_lookup_elem(&classes, &number);
	__u64 bytes;

	if (class && class->borrows)
		class = bpf_map_lookup_elem(&classes, &link);
	if (!class || !class->cost)
		return;
	bytes = (NS_PER_S << COST_FRACTION) / class->cost;
	bytes = bytes * mss / (mss + FRAME_HEADERS + (ipv4 ? 0 : 20) + overhead_bytes);
	rate = bytes < MOST_PACED ? bytes : MOST_PACED;
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate));
}

SEC("sockops")
int pace(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
		set_pace(ctx);
		break;
	case BPF_SOCK_OPS_RTT_CB: /* the rate may be another by now */
		set_pace(ctx);
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
