/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * xdp_balance: a layer-4 load balancer for TCP and UDP over IPv4 and IPv6.
 *
 * A virtual service (address, port, protocol) has backends. The first packet of a flow picks one, by round robin or
 * by a Maglev table; the flow table keeps every later packet on it. Two ways of forwarding, chosen per service:
 *
 *   NAT     the destination becomes the backend, TTL falls by one; the backend's replies, which must be routed
 *           through this machine, get the service's address back. The client's address stays visible.
 *   DIRECT  only the MAC addresses change (layer-2 direct server return): the backend holds the service's address on
 *           its loopback, listens on the service's port and answers the client by itself.
 *
 * VERDICTS
 *   TCP or UDP to a service        XDP_TX where the way out is the way in, else XDP_REDIRECT
 *   reply of a NAT backend         the same
 *   ... no neighbour or route yet  NAT: rewritten, XDP_PASS: the kernel resolves, forwards or refuses it
 *                                  DIRECT: XDP_DROP (resolve neighbours by health checks)
 *   ... TTL or hop limit 0 or 1    NAT: XDP_PASS, unchanged: the kernel answers "time exceeded" (RFC 1812, 5.3.1)
 *                                  if it has a route for the service's address; keep that off its own interfaces
 *                                  DIRECT: as any other; a layer-2 hop takes nothing from it
 *   ... no backend is ACTIVE       XDP_DROP
 *   ... reply would be ambiguous   XDP_DROP (one client port talks to one backend port through two services)
 *   fragment to a service address  XDP_DROP, the first as the later ones; elsewhere XDP_PASS
 *   over 6 IPv6 extension headers  XDP_DROP to a service address, elsewhere XDP_PASS
 *   malformed or truncated         XDP_DROP: IP or transport header cut short, lengths that contradict each other
 *   ICMP, SCTP, other ports, ARP   XDP_PASS
 *   One or two VLAN tags, IPv4 options and IPv6 extension headers change none of this, and leave as they came. A
 *   TCP or UDP checksum is updated, never verified: a wrong one stays wrong, a UDP checksum of 0 stays 0.
 *
 * KNOBS (const volatile, set before load)
 *   tcp_idle_s 3600, udp_idle_s 60   a flow silent for longer is a new flow
 *   hop_refresh_s 5                  a flow's next hop is looked up in the routing table again after this time
 *   hash_seed 0                      balancers that share Maglev flows must agree on it
 *
 * MAPS
 *   vips             address, port, protocol -> service; port 0 and protocol 0: "this address is a service's"
 *   tables           service -> slots, each a backend: a Maglev table, or the wheel of a weighted round robin
 *   backends         slot -> backend. Its state: ACTIVE takes new flows, DRAINING keeps those it has, with DOWN they
 *                    move to another one at their next packet. A new generation disowns the slot's old flows.
 *   turns            service -> the next slot of the wheel
 *   flows4, flows6   the packet's own 5-tuple, one entry a direction -> backend and next hop; LRU
 *   service_counts, backend_counts   packets and bytes to the backend and from it, flows opened; per CPU
 *   outcomes         why a packet was not simply forwarded, by `enum outcome`; per CPU
 *   verdicts         packets and bytes by XDP verdict; per CPU
 *   bpf/xdp_balance.py writes the first three: services, weights, health, draining.
 *
 * KERNEL 5.12 or later (an atomic add that fetches); tried on 6.1, 6.12, 6.18. IP forwarding must be on, for
 * bpf_fib_lookup.
 *
 * NOT HANDLED
 *   ICMP errors about a balanced flow (XDP_PASS): give both sides one MTU. Reassembly of fragments. IPsec AH over NAT.
 *   IPv6 jumbograms (dropped as malformed). FTP and other protocols with addresses in their payload. Replies of a
 *   backend on this machine itself. A flood of new flows evicts the oldest entries: with MAGLEV their flows find the
 *   same backend again, with ROUND_ROBIN they may not.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <lab/checksum.h>
#include <lab/clock.h>
#include <lab/jhash.h>
#include <lab/parse.h>
#include <lab/verdict.h>

#define AF_INET	 2
#define AF_INET6 10

#define SERVICES    64
#define BACKENDS    4096
#define TABLE_SLOTS 65537 /* prime, as Maglev needs */
#define PROBES	    16

#define TCP_FLAGS_AT 13 /* RFC 9293, 3.1 */
#define TCP_FIN	     0x01
#define TCP_SYN	     0x02
#define TCP_RST	     0x04
#define TCP_ACK	     0x10

#define NS_PER_S 1000000000ULL

const volatile __u64 tcp_idle_s = 3600;
const volatile __u64 udp_idle_s = 60;
const volatile __u64 hop_refresh_s = 5;
const volatile __u32 hash_seed = 0;

enum scheduler {
	ROUND_ROBIN,
	MAGLEV,
};

enum forwarding {
	NAT,
	DIRECT,
};

enum backend_state {
	ABSENT,
	ACTIVE,
	DRAINING,
	DOWN,
};

enum direction {
	TO_BACKEND,
	TO_CLIENT,
};

enum outcome {
	FORWARDED,   /* never counted here: verdicts has it */
	NOT_IP,	     /* passed */
	NOT_SERVICE, /* passed */
	TTL_EXPIRED, /* passed unchanged */
	NO_HOP,	     /* passed rewritten (NAT) or dropped (DIRECT) */
	NO_BACKEND,  /* dropped */
	AMBIGUOUS,   /* dropped */
	FRAGMENT,    /* dropped */
	TOO_DEEP,    /* dropped */
	MALFORMED,   /* dropped */
	REOPENED,    /* a flow whose backend went away, or that was idle or closed, began anew; forwarded */
	OUTCOMES,
};

/* IPv4 addresses are written as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2) in all that user space writes. */
struct vip {
	struct in6_addr address;
	__be16 port;
	__u8 protocol;
	__u8 reserved;
};

struct service {
	__u32 id;
	__u32 slots;
	enum scheduler scheduler;
	enum forwarding forwarding;
};

struct table {
	__u16 backend[TABLE_SLOTS];
};

/* One cache line has all that a packet of a tracked flow needs to be rewritten, in either direction. */
struct backend {
	struct in6_addr address;
	struct in6_addr vip;
	__be16 port;
	__be16 vip_port;
	__u32 service;
	enum forwarding forwarding;
	/* Last, because a map update copies upwards: who sees these sees all above. */
	__u32 generation;
	enum backend_state state;
};

struct flow_key4 {
	__be32 source;
	__be32 dest;
	__be16 sport;
	__be16 dport;
	__u32 protocol;
};

struct flow_key6 {
	struct in6_addr source;
	struct in6_addr dest;
	__be16 sport;
	__be16 dport;
	__u32 protocol;
};

struct hop {
	__u8 dest[ETH_ALEN];
	__u8 source[ETH_ALEN];
	__u32 ifindex; /* 0: unknown */
};

struct flow {
	__u64 seen_ns; /* CLOCK_MONOTONIC */
	__u32 backend;
	__u32 generation;
	struct hop hop;
	__u32 hop_until_s; /* CLOCK_MONOTONIC */
	__u8 direction;	   /* enum direction */
	__u8 closed;	   /* a FIN or an RST went this way */
	__u16 reserved;
};

struct balanced {
	__u64 packets;
	__u64 bytes;
	__u64 reply_packets;
	__u64 reply_bytes;
	__u64 flows;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * SERVICES);
	__type(key, struct vip);
	__type(value, struct service);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SERVICES);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SERVICES);
	__type(key, __u32);
	__type(value, __u32);
} turns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* Two tables, because a 16-byte key hashes and compares in half the time of a 40-byte one. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key4);
	__type(value, struct flow);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key6);
	__type(value, struct flow);
} flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SERVICES);
	__type(key, __u32);
	__type(value, struct balanced);
} service_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct balanced);
} backend_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, enum outcome);
	__type(value, __u64);
} outcomes SEC(".maps");

/* ---- Addresses and keys ---- */

static __always_inline struct in6_addr mapped(__be32 address)
{
	struct in6_addr six = {};

	six.s6_addr32[2] = bpf_htonl(0xffff);
	six.s6_addr32[3] = address;
	return six;
}

/* Behind a call or a merge the verifier has forgotten that `family` went with 40 bytes of header: it is shown again. */
static __always_inline bool has_ip6(const struct lab_packet *pkt)
{
	return (void *)(pkt->ip6 + 1) <= pkt->end;
}

static __always_inline struct in6_addr source_of(const struct lab_packet *pkt)
{
	if (pkt->family == ETH_P_IP)
		return mapped(pkt->ip4->saddr);
	return has_ip6(pkt) ? pkt->ip6->saddr : (struct in6_addr){};
}

static __always_inline struct in6_addr dest_of(const struct lab_packet *pkt)
{
	if (pkt->family == ETH_P_IP)
		return mapped(pkt->ip4->daddr);
	return has_ip6(pkt) ? pkt->ip6->daddr : (struct in6_addr){};
}

static __always_inline struct flow *find_flow(const struct lab_packet *pkt)
{
	struct flow_key4 four;
	struct flow_key6 six;

	if (pkt->family == ETH_P_IP) {
		four.source = pkt->ip4->saddr;
		four.dest = pkt->ip4->daddr;
		four.sport = pkt->sport;
		four.dport = pkt->dport;
		four.protocol = pkt->protocol;
		return bpf_map_lookup_elem(&flows4, &four);
	}
	if (!has_ip6(pkt))
		return NULL;
	six.source = pkt->ip6->saddr;
	six.dest = pkt->ip6->daddr;
	six.sport = pkt->sport;
	six.dport = pkt->dport;
	six.protocol = pkt->protocol;
	return bpf_map_lookup_elem(&flows6, &six);
}

/* ---- Counting ---- */

static __always_inline void count(struct balanced *counts, enum direction direction, __u64 bytes)
{
	if (!counts)
		return;
	if (direction == TO_BACKEND) {
		counts->packets++;
		counts->bytes += bytes;
	} else {
		counts->reply_packets++;
		counts->reply_bytes += bytes;
	}
}

/* A per-CPU slot: XDP runs in softirq, so nobody else writes it now. */
static __always_inline void note(enum outcome outcome)
{
	__u64 *times = bpf_map_lookup_elem(&outcomes, &outcome);

	if (times)
		*times += 1;
}

static __always_inline int finish(int action, enum outcome outcome, const struct xdp_md *ctx)
{
	note(outcome);
	return lab_verdict(action, ctx->data_end - ctx->data);
}

/* Not from ctx: clang may keep its 32-bit fields, which are pointers to the verifier, in half a stack slot. */
static __always_inline __u64 frame_bytes(const struct lab_packet *pkt)
{
	return pkt->end - (void *)pkt->eth;
}

/* ---- Form ---- */

static __always_inline bool carries_whole_tcp(const struct lab_packet *pkt)
{
	const struct tcphdr *tcp = pkt->l4;

	if ((void *)(tcp + 1) > pkt->end)
		return false;
	return tcp->doff >= 5 && tcp->doff * 4 <= pkt->l4_bytes;
}

static __always_inline bool carries_whole_udp(const struct lab_packet *pkt)
{
	const struct udphdr *udp = pkt->l4;

	if (pkt->l4_bytes < sizeof(*udp) || (void *)(udp + 1) > pkt->end)
		return false;
	return bpf_ntohs(udp->len) >= sizeof(*udp) && bpf_ntohs(udp->len) <= pkt->l4_bytes;
}

static __always_inline bool is_vip_address(const struct lab_packet *pkt)
{
	struct vip vip = { .address = dest_of(pkt) };

	return bpf_map_lookup_elem(&vips, &vip);
}

/* What cannot be balanced is dropped if it goes to a service's address, and is none of our business elsewhere. */
static __noinline int refuse(const struct xdp_md *ctx, const struct lab_packet *pkt, enum outcome outcome)
{
	if (is_vip_address(pkt))
		return finish(XDP_DROP, outcome, ctx);
	return finish(XDP_PASS, NOT_SERVICE, ctx);
}

static __always_inline bool expires(const struct lab_packet *pkt)
{
	/* The hop limit lies within the first 20 bytes, which either header has. */
	return (pkt->family == ETH_P_IP ? pkt->ip4->ttl : pkt->ip6->hop_limit) <= 1;
}

/* ---- The next hop ---- */

static __always_inline void ask_route4(const struct lab_packet *pkt, const struct backend *backend, bool to_backend,
				       struct bpf_fib_lookup *fib)
{
	fib->family = AF_INET;
	fib->tos = pkt->ip4->tos;
	fib->ipv4_src = to_backend ? pkt->ip4->saddr : backend->vip.s6_addr32[3];
	fib->ipv4_dst = to_backend ? backend->address.s6_addr32[3] : pkt->ip4->daddr;
}

static __always_inline void ask_route6(const struct lab_packet *pkt, const struct backend *backend, bool to_backend,
				       struct bpf_fib_lookup *fib)
{
	struct in6_addr source = to_backend ? source_of(pkt) : backend->vip;
	struct in6_addr dest = to_backend ? backend->address : dest_of(pkt);

	fib->family = AF_INET6;
	__builtin_memcpy(fib->ipv6_src, &source, sizeof(source));
	__builtin_memcpy(fib->ipv6_dst, &dest, sizeof(dest));
}

/* The kernel puts a gateway's address in place of the destination: DIRECT needs the backend itself on the wire. */
static __always_inline bool is_on_link(const struct lab_packet *pkt, const struct backend *backend,
				       const struct bpf_fib_lookup *fib)
{
	const __u32 *address = backend->address.s6_addr32;

	if (pkt->family == ETH_P_IP)
		return fib->ipv4_dst == address[3];
	return fib->ipv6_dst[0] == address[0] && fib->ipv6_dst[1] == address[1] && fib->ipv6_dst[2] == address[2] &&
	       fib->ipv6_dst[3] == address[3];
}

/* Sets the flow's hop from the routing table and the neighbours; its ifindex is 0 where these have no answer. */
static __noinline void find_hop(struct xdp_md *ctx, const struct lab_packet *pkt, const struct backend *backend,
				struct flow *flow)
{
	bool to_backend = flow->direction == TO_BACKEND;
	struct bpf_fib_lookup fib = { .ifindex = ctx->ingress_ifindex, .l4_protocol = pkt->protocol };

	flow->hop.ifindex = 0;
	if (pkt->family == ETH_P_IP)
		ask_route4(pkt, backend, to_backend, &fib);
	else
		ask_route6(pkt, backend, to_backend, &fib);
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return;
	if (backend->forwarding == DIRECT && !is_on_link(pkt, backend, &fib))
		return;
	__builtin_memcpy(flow->hop.dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(flow->hop.source, fib.smac, ETH_ALEN);
	flow->hop.ifindex = fib.ifindex;
	flow->hop_until_s = flow->seen_ns / NS_PER_S + hop_refresh_s;
}

/* ---- A new flow ---- */

/* The 5-tuple, 40 bytes, as the five numbers that a BPF function can take. Not static, for the same reason as pick().
 */
__noinline __u32 hash_words(__u64 a, __u64 b, __u64 c, __u64 d, __u64 e)
{
	__u64 words[] = { a, b, c, d, e };

	return lab_jhash((const __u32 *)words, sizeof(words) / 4, hash_seed);
}

static __always_inline __u32 hash_of(const struct lab_packet *pkt)
{
	union {
		struct flow_key6 key;
		__u64 words[sizeof(struct flow_key6) / 8];
	} tuple = { .key = {
			    .source = source_of(pkt),
			    .dest = dest_of(pkt),
			    .sport = pkt->sport,
			    .dport = pkt->dport,
			    .protocol = pkt->protocol,
		    } };

	return hash_words(tuple.words[0], tuple.words[1], tuple.words[2], tuple.words[3], tuple.words[4]);
}

static __always_inline __u32 first_slot(const struct lab_packet *pkt, const struct service *service)
{
	__u32 *turn;

	/* hash * slots / 2^32 is as even as a modulo, without the division. */
	if (service->scheduler == MAGLEV)
		return ((__u64)hash_of(pkt) * service->slots) >> 32;
	turn = bpf_map_lookup_elem(&turns, &service->id);
	/* Atomic: packets of other CPUs take turns at the same wheel. */
	return turn ? __sync_fetch_and_add(turn, 1) : 0;
}

/*
 * The first ACTIVE backend at or behind a slot of the service's table, or -1. User space marks a backend first and
 * rebuilds the table after, and no packet is lost in between. Not static: the verifier proves it once, for any
 * numbers, and not again on every path to it.
 */
__noinline int pick(__u32 service, __u32 slots, __u32 first)
{
	struct table *table = bpf_map_lookup_elem(&tables, &service);
	struct backend *backend;
	__u32 slot, id;

	if (!table || !slots)
		return -1;
	for (int probe = 0; probe < PROBES; probe++) {
		slot = (first + probe) % slots;
		if (slot >= TABLE_SLOTS)
			return -1;
		id = table->backend[slot];
		backend = bpf_map_lookup_elem(&backends, &id);
		if (backend && backend->state == ACTIVE && backend->service == service)
			return id;
	}
	return -1;
}

/* True when the reply's entry serves another service's open flow: the two replies could not be told apart. */
static __always_inline bool is_taken(const struct flow *reply, __u32 id, __u64 now_ns)
{
	struct backend *owner;
	__u32 owner_id;

	if (!reply || reply->backend == id || reply->closed || now_ns - reply->seen_ns > udp_idle_s * NS_PER_S)
		return false;
	owner_id = reply->backend;
	owner = bpf_map_lookup_elem(&backends, &owner_id);
	return owner && owner->generation == reply->generation;
}

/* The entry that a NAT backend's reply will find; false when another flow has it. Its hop is asked for by the reply. */
static __always_inline bool add_reply4(const struct lab_packet *pkt, const struct backend *backend, struct flow *fresh)
{
	struct flow_key4 key = {
		.source = backend->address.s6_addr32[3],
		.dest = pkt->ip4->saddr,
		.sport = backend->port,
		.dport = pkt->sport,
		.protocol = pkt->protocol,
	};

	if (is_taken(bpf_map_lookup_elem(&flows4, &key), fresh->backend, fresh->seen_ns))
		return false;
	bpf_map_update_elem(&flows4, &key, fresh, BPF_ANY);
	return true;
}

static __always_inline bool add_reply6(const struct lab_packet *pkt, const struct backend *backend, struct flow *fresh)
{
	struct flow_key6 key = {
		.source = backend->address,
		.dest = source_of(pkt),
		.sport = backend->port,
		.dport = pkt->sport,
		.protocol = pkt->protocol,
	};

	if (is_taken(bpf_map_lookup_elem(&flows6, &key), fresh->backend, fresh->seen_ns))
		return false;
	bpf_map_update_elem(&flows6, &key, fresh, BPF_ANY);
	return true;
}

static __always_inline void add_request4(const struct lab_packet *pkt, struct flow *fresh)
{
	struct flow_key4 key = {
		.source = pkt->ip4->saddr,
		.dest = pkt->ip4->daddr,
		.sport = pkt->sport,
		.dport = pkt->dport,
		.protocol = pkt->protocol,
	};

	bpf_map_update_elem(&flows4, &key, fresh, BPF_ANY);
}

static __always_inline void add_request6(const struct lab_packet *pkt, struct flow *fresh)
{
	struct flow_key6 key = {
		.source = source_of(pkt),
		.dest = dest_of(pkt),
		.sport = pkt->sport,
		.dport = pkt->dport,
		.protocol = pkt->protocol,
	};

	bpf_map_update_elem(&flows6, &key, fresh, BPF_ANY);
}

static __always_inline bool add_reply(const struct lab_packet *pkt, const struct backend *backend, struct flow *fresh)
{
	fresh->direction = TO_CLIENT;
	return pkt->family == ETH_P_IP ? add_reply4(pkt, backend, fresh) : add_reply6(pkt, backend, fresh);
}

static __noinline void add_request(const struct lab_packet *pkt, struct flow *fresh)
{
	if (pkt->family == ETH_P_IP)
		add_request4(pkt, fresh);
	else
		add_request6(pkt, fresh);
}

static __always_inline void count_flow(__u32 service, __u32 id)
{
	struct balanced *counts = bpf_map_lookup_elem(&service_counts, &service);

	if (counts)
		counts->flows++;
	counts = bpf_map_lookup_elem(&backend_counts, &id);
	if (counts)
		counts->flows++;
}

/* The miss path, a call of its own (8 ns): services and schedulers cost a tracked flow nothing, not even cache. */
static __noinline enum outcome open_flow(const struct lab_packet *pkt, struct flow *fresh)
{
	struct vip vip = { .address = dest_of(pkt), .port = pkt->dport, .protocol = pkt->protocol };
	struct service *service = bpf_map_lookup_elem(&vips, &vip);
	struct backend *backend;
	int picked;

	if (!service)
		return NOT_SERVICE;
	if (service->forwarding == NAT && expires(pkt))
		return TTL_EXPIRED;
	picked = pick(service->id, service->slots, first_slot(pkt, service));
	if (picked < 0)
		return NO_BACKEND;
	fresh->backend = picked;
	backend = bpf_map_lookup_elem(&backends, &fresh->backend);
	if (!backend)
		return NO_BACKEND;
	fresh->generation = backend->generation;
	if (backend->forwarding == NAT && !add_reply(pkt, backend, fresh))
		return AMBIGUOUS;
	fresh->direction = TO_BACKEND;
	count_flow(service->id, fresh->backend);
	return FORWARDED;
}

/* ---- Rewriting ---- */

/* The port and the transport checksum; `diff` is what the pseudo header's addresses changed by. */
static __always_inline void translate_transport(struct lab_packet *pkt, bool to_backend, __be16 port, __u64 diff)
{
	struct tcphdr *tcp = pkt->l4;
	struct udphdr *udp = pkt->l4;
	struct lab_ports *ports = pkt->l4;

	diff += lab_csum_diff16(to_backend ? pkt->dport : pkt->sport, port);
	if (pkt->protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > pkt->end)
			return;
		tcp->check = lab_csum_apply(tcp->check, diff);
	} else {
		if ((void *)(udp + 1) > pkt->end)
			return;
		udp->check = lab_csum_apply_udp(udp->check, diff);
	}
	if (to_backend)
		ports->dest = port;
	else
		ports->source = port;
}

static __always_inline void translate4(struct lab_packet *pkt, bool to_backend, const struct backend *backend)
{
	__be32 address = to_backend ? backend->address.s6_addr32[3] : backend->vip.s6_addr32[3];
	__be32 *field = to_backend ? &pkt->ip4->daddr : &pkt->ip4->saddr;
	__u64 diff = lab_csum_diff32(*field, address);

	*field = address;
	pkt->ip4->check = lab_csum_apply(pkt->ip4->check, diff);
	translate_transport(pkt, to_backend, to_backend ? backend->port : backend->vip_port, diff);
}

static __always_inline void translate6(struct lab_packet *pkt, bool to_backend, const struct backend *backend)
{
	const struct in6_addr *address = to_backend ? &backend->address : &backend->vip;
	struct in6_addr *field = to_backend ? &pkt->ip6->daddr : &pkt->ip6->saddr;
	__u64 diff;

	if (!has_ip6(pkt))
		return;
	diff = lab_csum_diff128(field->s6_addr32, address->s6_addr32);
	*field = *address;
	translate_transport(pkt, to_backend, to_backend ? backend->port : backend->vip_port, diff);
}

static __always_inline void decrement_ttl(struct lab_packet *pkt)
{
	__be16 from, to;

	if (pkt->family == ETH_P_IPV6) {
		pkt->ip6->hop_limit--;
		return;
	}
	/* TTL is the upper byte of its checksum word; the protocol below it cancels out. */
	from = bpf_htons(pkt->ip4->ttl << 8);
	pkt->ip4->ttl--;
	to = bpf_htons(pkt->ip4->ttl << 8);
	pkt->ip4->check = lab_csum_apply(pkt->ip4->check, lab_csum_diff16(from, to));
}

/* ---- Forwarding ---- */

static __always_inline int leave(struct xdp_md *ctx, struct lab_packet *pkt, const struct hop *hop)
{
	__builtin_memcpy(pkt->eth->h_dest, hop->dest, ETH_ALEN);
	__builtin_memcpy(pkt->eth->h_source, hop->source, ETH_ALEN);
	if (hop->ifindex == ctx->ingress_ifindex)
		return lab_verdict(XDP_TX, frame_bytes(pkt));
	return lab_verdict(bpf_redirect(hop->ifindex, 0), frame_bytes(pkt));
}

static __always_inline int forward(struct xdp_md *ctx, struct lab_packet *pkt, struct flow *flow,
				   const struct backend *backend, __u64 now_ns)
{
	bool to_backend = flow->direction == TO_BACKEND;
	__u64 bytes = frame_bytes(pkt);
	__u32 now_s = now_ns / NS_PER_S;
	__u32 service = backend->service, id = flow->backend;

	if (backend->forwarding == NAT && expires(pkt))
		return finish(XDP_PASS, TTL_EXPIRED, ctx);
	if (!flow->hop.ifindex || (__s32)(now_s - flow->hop_until_s) >= 0)
		find_hop(ctx, pkt, backend, flow);

	count(bpf_map_lookup_elem(&service_counts, &service), flow->direction, bytes);
	count(bpf_map_lookup_elem(&backend_counts, &id), flow->direction, bytes);
	if (backend->forwarding == DIRECT)
		return flow->hop.ifindex ? leave(ctx, pkt, &flow->hop) : finish(XDP_DROP, NO_HOP, ctx);

	if (pkt->family == ETH_P_IP)
		translate4(pkt, to_backend, backend);
	else
		translate6(pkt, to_backend, backend);
	if (!flow->hop.ifindex)
		return finish(XDP_PASS, NO_HOP, ctx);
	decrement_ttl(pkt);
	return leave(ctx, pkt, &flow->hop);
}

/* A packet without a flow that could be kept; a call of its own, so that the tracked flow's code stays small. */
static __noinline int forward_first(struct xdp_md *ctx, struct lab_packet *pkt, __u64 now_ns, bool known)
{
	struct flow fresh = { .seen_ns = now_ns };
	enum outcome outcome = open_flow(pkt, &fresh);
	struct backend *backend = bpf_map_lookup_elem(&backends, &fresh.backend);

	if (outcome == NOT_SERVICE || outcome == TTL_EXPIRED)
		return finish(XDP_PASS, outcome, ctx);
	if (outcome != FORWARDED || !backend)
		return finish(XDP_DROP, outcome, ctx);
	if (known)
		note(REOPENED);
	/* First the hop, so that the entry has it for the packets to come. */
	find_hop(ctx, pkt, backend, &fresh);
	add_request(pkt, &fresh);
	return forward(ctx, pkt, &fresh, backend, now_ns);
}

static __always_inline __u64 idle_s(const struct lab_packet *pkt)
{
	return pkt->protocol == IPPROTO_TCP ? tcp_idle_s : udp_idle_s;
}

/* True while the flow's next packet belongs to the backend that its first one picked. */
static __always_inline bool is_kept(const struct flow *flow, const struct backend *backend, __u8 flags, __u64 now_ns,
				    __u64 limit_s)
{
	if (flow->generation != backend->generation || now_ns - flow->seen_ns > limit_s * NS_PER_S)
		return false;
	/* What a backend still says reaches the client, whatever its health check thinks. */
	if (flow->direction == TO_CLIENT)
		return true;
	/* The client used the port of a closed connection again. */
	if (flow->closed && (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return false;
	return backend->state == ACTIVE || backend->state == DRAINING;
}

SEC("xdp")
int xdp_balance(struct xdp_md *ctx)
{
	struct backend *backend;
	struct lab_packet pkt;
	__u8 flags = 0;
	struct flow *flow;
	__u64 now_ns;
	__u32 id;

	switch (lab_parse(&pkt, (void *)(long)ctx->data, (void *)(long)ctx->data_end)) {
	case LAB_OK:
		break;
	case LAB_NOT_IP:
		return finish(XDP_PASS, NOT_IP, ctx);
	case LAB_TOO_DEEP:
		return refuse(ctx, &pkt, TOO_DEEP);
	default:
		return finish(XDP_DROP, MALFORMED, ctx);
	}
	if (pkt.protocol != IPPROTO_TCP && pkt.protocol != IPPROTO_UDP)
		return finish(XDP_PASS, NOT_SERVICE, ctx);
	if (pkt.fragment)
		return refuse(ctx, &pkt, FRAGMENT);
	if (pkt.protocol == IPPROTO_TCP ? !carries_whole_tcp(&pkt) : !carries_whole_udp(&pkt))
		return finish(XDP_DROP, MALFORMED, ctx);
	if (lab_parse_ports(&pkt) != LAB_OK)
		return finish(XDP_DROP, MALFORMED, ctx);
	if (pkt.protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = pkt.l4;

		if ((void *)(tcp + 1) > pkt.end)
			return finish(XDP_DROP, MALFORMED, ctx);
		flags = ((__u8 *)tcp)[TCP_FLAGS_AT];
	}

	now_ns = lab_now_ns();
	flow = find_flow(&pkt);
	if (flow) {
		id = flow->backend;
		backend = bpf_map_lookup_elem(&backends, &id);
		if (backend && is_kept(flow, backend, flags, now_ns, idle_s(&pkt))) {
			/* Written only when it changes: a flow's two directions may run on two CPUs. */
			if (flow->seen_ns != now_ns)
				flow->seen_ns = now_ns;
			if (flags & (TCP_FIN | TCP_RST))
				flow->closed = 1;
			return forward(ctx, &pkt, flow, backend, now_ns);
		}
	}
	return forward_first(ctx, &pkt, now_ns, flow);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
