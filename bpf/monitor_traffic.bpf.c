/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * monitor_traffic: one row a flow, from what XDP, tc and the sockets each know: packets, bytes, flags, RTT, state.
 *
 * Five programs share the maps. A flow is a 5-tuple in both directions; each layer finds the same row by one lookup:
 *   monitor_traffic   XDP           what comes in
 *   monitor_ingress   tc ingress    what comes in and is not of an interface with XDP; and how much reached the stack
 *   monitor_egress    tc egress     what goes out, but was not counted when it came in
 *   monitor_socket    sock_ops      process, state, RTT and retransmits of TCP sockets, at the side that is theirs
 *   monitor_look      iter/tcp      the sockets that were there before: run once, by look() of the companion
 * They watch: no packet is changed or dropped, no socket behaves otherwise.
 *
 * VERDICTS: XDP_PASS; TC_ACT_UNSPEC at tc, so that other programs have their say; 1 for sockets.
 *
 * NO PACKET IS COUNTED TWICE. `interfaces` has all that each layer saw, but only one of them adds it to its flow: XDP
 * what comes in; tc ingress only where the interface has shown nothing to XDP; tc egress only what this machine sent
 * itself, or forwarded from an interface that neither of them watches.
 *
 * WHAT IS IN NO FLOW, by enum outcome: NOT_IP (ARP, a third VLAN tag), FRAGMENT (a later one: it has no ports),
 * TOO_DEEP (over 6 IPv6 extension headers), MALFORMED (cut short or contradicting lengths), NO_ROOM (the update of
 * `flows` failed). Counted beside them, though their flow has them: EVENT_LOST (a connection event met a full ring
 * buffer), INTERFACE_LEFT_OUT (more than 1,000 interfaces: packets of it are not in `interfaces`, and may count twice).
 *
 * A NEW FLOW of the same ports begins where a socket connects, or where a SYN follows a FIN or a reset.
 *
 * RTT WITHOUT A SOCKET: `handshake_us` of a side is how long its part of the handshake took from here and back: of the
 * answerer SYN to SYN-ACK, of the opener SYN-ACK to ACK. It holds for forwarded connections, too.
 *
 * KNOBS (const volatile, set before load)
 *   loopback 1   the interface on which what goes out comes in again, so that it is counted there; 0: none is
 *
 * MAPS
 *   flows        struct flow_key -> struct flow; 65536, or load(max_entries=...). When it is full those unused longest
 *                make room (LRU): counters of a flow that was evicted are gone, `ports` and `interfaces` keep theirs
 *   places       which interfaces were met: by ifindex, modulo the map's size, or one of the next 7
 *   interfaces   packets and bytes by place * LAYERS + layer; per CPU
 *   ports        what went to the port of a service, TCP or UDP, and came from it; per CPU. It is the port to which
 *                the first packet of the flow went
 *   outcomes     packets in no flow; per CPU
 *   happenings   by enum happening: flows opened, opened anew, segments sent again; per CPU
 *   connections  by enum kind: how often each event came about, told or lost; per CPU
 *   processes    process id -> its name, of those that called connect() or listen()
 *   listeners    who listens, kept with the socket: what is accepted from it inherits it
 *   events       ring buffer of struct event: a TCP socket that connects, was established, failed, was closed
 *
 * BYTES are of frames without FCS, VLAN tags included. Packets that the kernel joined (GRO) or has yet to cut (GSO)
 * count as those on the wire, each with its headers.
 *
 * SEVERAL CPUs: a side's counters are added to atomically. A side's socket part is written under the socket's lock.
 *
 * KERNEL 5.19 or later by the helpers it calls; sockets that were there before are taken from 6.12 on. Tried on 6.1,
 * 6.12 and 6.18.
 *
 * NOT HANDLED
 *   Network namespaces apart: the same addresses in two of them are one flow. A bridge and its ports, or an interface
 *   and its VLANs, watched together: each sees the packet come in, watch one of them. Tunnels (the outer flow is seen).
 *   Sockets that were there before it have no process, nor has what their listeners accept; who opened such a
 *   connection is guessed by its ports. Who is accepted from a listener has the process that called listen(), whichever
 *   forked one serves it. UDP has no sockets here. BIG TCP (IP packets over 64 KB) is MALFORMED, and so are at tc over
 *   50 bytes of IPv6 extension headers in a frame whose data lies in pages.
 *   XDP taken off an interface on which tc stays: its ingress is then in `interfaces` alone.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include <lab/address.h>
#include <lab/clock.h>
#include <lab/ends.h>
#include <lab/parse.h>
#include <lab/tcp_sock.h>
#include <lab/tcp_state.h>

#define FLOWS			  65536
#define INTERFACES		  1024
#define PROBES			  8
#define LEFT_OUT		  INTERFACES /* beyond the maps */
#define PORTS			  65536
#define HEADERS			  128 /* Ethernet, two tags, IPv6, TCP with all its options */
#define TCP_LENGTH_AT		  12  /* RFC 9293, 3.1: the header's, in words, in the upper half of the byte */
#define TCP_FLAGS_AT		  13
#define UDP_BYTES		  8
#define VLAN_BYTES		  4
#define FLAG_FIN		  0x01
#define FLAG_SYN		  0x02
#define FLAG_RST		  0x04
#define FLAG_ACK		  0x10
#define PROCESSES		  16384
#define NAME_BYTES		  16 /* TASK_COMM_LEN */
#define SOL_TCP			  6
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008 /* since Linux 6.12 */
#define DEEPEST			  32   /* cgroup levels */
#define FAMILY_IPV4		  2
#define FAMILY_IPV6		  10
#define CALLBACKS		  (BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG)

/* Set by look(): whose sockets monitor_look takes; 0: everybody's. */
__u64 looked_at_cgroup;

const volatile __u32 loopback = 1; /* its ifindex, in each namespace */

enum layer {
	XDP,
	TC_INGRESS,
	TC_EGRESS,
	LAYERS,
};

enum outcome {
	NOT_IP,
	FRAGMENT,
	TOO_DEEP,
	MALFORMED,
	NO_ROOM,
	EVENT_LOST,
	INTERFACE_LEFT_OUT,
	OUTCOMES,
};

enum kind {
	CONNECTING,
	CONNECTED,
	ACCEPTED,
	FAILED, /* before it was established */
	CLOSED,
	KINDS,
};

enum happening {
	FLOW_OPENED,
	TCP_FLOW_OPENED, /* of these */
	FLOW_REPLACED,	 /* opened anew, with the ports of a former one */
	SEGMENT_RETRANSMITTED,
	HAPPENINGS,
};

/* The end with the lower address (then port) comes first, so that both directions have one key. */
struct flow_key {
	struct in6_addr lower; /* IPv4 as ::ffff:a.b.c.d */
	struct in6_addr upper;
	__be16 lower_port;
	__be16 upper_port;
	__u32 protocol;
};

/* What an end sent, and, where its socket is on this machine, what that says. */
struct side {
	__u64 packets;
	__u64 bytes;
	enum tcp_state state : 8; /* NO_STATE: no socket of ours */
	__u8 flags;		  /* all TCP flags it ever set */
	__u16 reserved;
	__u32 srtt_us; /* smoothed; 0: no sample */
	__u32 retransmits;
	__u32 handshake_us; /* 0: not seen */
	__u32 process;	    /* its id as the first namespace has it; 0: not known */
	__u32 reserved2;
};

/* What every packet touches comes first: of a million flows each further cache line costs a miss. */
struct flow {
	__u64 last_ns;	/* CLOCK_MONOTONIC, as of the tick before */
	__u64 asked_ns; /* when the SYN or SYN-ACK came by that waits for its answer; 0: none does */
	__u32 ifindex;	/* where it was seen first; 0: a socket was earlier than its first packet */
	__u8 opener;	/* the side of the first packet: 0 lower, 1 upper */
	__u8 asker;	/* whose it is that `asked_ns` is the time of */
	__u16 reserved;
	struct side sides[2];
	__u64 first_ns;
};

struct event {
	enum kind kind;
	__u32 side; /* whose socket it is */
	__u64 at_ns;
	__u64 first_ns; /* of the flow */
	struct flow_key key;
	struct side socket;
	__u8 process[NAME_BYTES]; /* as it called itself: any bytes */
};
const struct event *kept_for_btf __attribute__((unused));

struct place {
	__u32 ifindex; /* 0: free */
	__u32 layers;  /* that saw a packet, by bit */
};

struct count {
	__u64 packets;
	__u64 bytes;
};

struct port_key {
	__u32 protocol;
	__u32 number;
};

struct port {
	struct count asked; /* to the service */
	struct count answered;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, INTERFACES);
	__type(key, __u32);
	__type(value, struct place);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, INTERFACES *LAYERS);
	__type(key, __u32);
	__type(value, struct count);
} interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2 * PORTS);
	__type(key, struct port_key);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, enum outcome);
	__type(value, __u64);
} outcomes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HAPPENINGS);
	__type(key, enum happening);
	__type(value, __u64);
} happenings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KINDS);
	__type(key, enum kind);
	__type(value, __u64);
} connections SEC(".maps");

struct name {
	__u8 bytes[NAME_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PROCESSES);
	__type(key, __u32);
	__type(value, struct name);
} processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, __u32);
	__type(value, __u32);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

/* An iterator's context, as include/linux/bpf.h lays it out: pointers of 8 bytes. */
struct bpf_iter__tcp {
	__u64 meta;
	struct sock_common *sk_common;
	__u32 uid;
};

struct task_struct {
	int tgid;
	struct task_struct *group_leader;
	char comm[NAME_BYTES];
} __attribute__((preserve_access_index));

/* What a packet says of its flow. */
struct news {
	struct flow_key key;
	__u32 side; /* who sent it: 0 lower, 1 upper */
	__u32 ifindex;
	__u32 packets; /* on the wire */
	__u32 bytes;
	__u32 headers; /* bytes of one packet's; 0: not TCP or UDP */
	__u8 flags;
};

/* ---- Counting ---- */

/* Atomic, although per CPU: a socket's callback under a system call may be interrupted by a packet. */
static __always_inline void add(void *map, __u32 key, __u32 number)
{
	__u64 *times = bpf_map_lookup_elem(map, &key);

	if (times)
		__sync_fetch_and_add(times, number);
}

static __always_inline void untracked(enum outcome outcome, __u32 packets)
{
	add(&outcomes, outcome, packets);
}

/* Free ones are taken for it if `taking`; LEFT_OUT: there is none, or no room. */
static __noinline __u32 find_place(__u32 ifindex, bool taking)
{
	for (__u32 probe = 0; probe < PROBES; probe++) {
		__u32 number = (ifindex + probe) % INTERFACES, taken;
		struct place *place = bpf_map_lookup_elem(&places, &number);

		if (!place || (!place->ifindex && !taking))
			return LEFT_OUT;
		taken = place->ifindex ?: __sync_val_compare_and_swap(&place->ifindex, 0, ifindex);
		if (!taken || taken == ifindex)
			return number;
	}
	return LEFT_OUT;
}

/* Its own number, nearly always; a hash table would cost 30 ns. */
static __always_inline __u32 place_of(__u32 ifindex, bool taking)
{
	__u32 number = ifindex % INTERFACES;
	struct place *place = bpf_map_lookup_elem(&places, &number);

	return place && place->ifindex == ifindex ? number : find_place(ifindex, taking);
}

/* A per-CPU slot, and XDP and tc run with bottom halves disabled: nobody else writes it now. */
static __always_inline void count_interface(__u32 ifindex, enum layer layer, __u32 packets, __u32 bytes)
{
	__u32 number = place_of(ifindex, true), slot = number * LAYERS + layer;
	struct place *place = bpf_map_lookup_elem(&places, &number);
	struct count *count = bpf_map_lookup_elem(&interfaces, &slot);

	if (!place || !count) {
		untracked(INTERFACE_LEFT_OUT, packets);
		return;
	}
	if (!(place->layers & 1 << layer))
		__sync_fetch_and_or(&place->layers, 1 << layer);
	count->packets += packets;
	count->bytes += bytes;
}

static __always_inline bool is_watched(__u32 ifindex, enum layer layer)
{
	__u32 number = place_of(ifindex, false);
	struct place *place = bpf_map_lookup_elem(&places, &number);

	return place && place->layers & 1 << layer;
}

static __always_inline void count_port(const struct news *news, const struct flow *flow)
{
	struct port_key key = { news->key.protocol, 0 };
	struct port *port, none = {};
	struct count *count;

	if (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP)
		return;
	key.number = bpf_ntohs(flow->opener ? news->key.lower_port : news->key.upper_port);
	port = bpf_map_lookup_elem(&ports, &key);
	if (!port) {
		bpf_map_update_elem(&ports, &key, &none, BPF_NOEXIST);
		port = bpf_map_lookup_elem(&ports, &key);
		if (!port)
			return;
	}
	count = news->side == flow->opener ? &port->asked : &port->answered;
	count->packets += news->packets;
	count->bytes += news->bytes;
}

/* ---- Which flow ---- */

/* The key of both directions; the side that `source` is. An address that talks to itself has its ports. */
static __always_inline __u32 make_key(struct flow_key *key, const struct in6_addr *source, const struct in6_addr *dest,
				      __be16 sport, __be16 dport)
{
	bool upper = lab_is_upper(source, dest, sport, dport);

	key->lower = upper ? *dest : *source;
	key->upper = upper ? *source : *dest;
	key->lower_port = upper ? dport : sport;
	key->upper_port = upper ? sport : dport;
	return upper;
}

/* OUTCOMES when the packet belongs into a flow, else why not. */
static __always_inline enum outcome read_packet(void *data, void *end, __u32 frame_bytes, struct news *news)
{
	struct in6_addr source, dest;
	struct lab_packet pkt;
	const __u8 *tcp;

	switch (lab_parse_start(&pkt, data, end, frame_bytes)) {
	case LAB_OK:
		break;
	case LAB_NOT_IP:
		return NOT_IP;
	case LAB_TOO_DEEP:
		return TOO_DEEP;
	default:
		return MALFORMED;
	}
	if (pkt.later_fragment)
		return FRAGMENT;
	if (lab_parse_ports(&pkt) != LAB_OK)
		return MALFORMED;
	if (!lab_read_ends(&pkt, &source, &dest))
		return MALFORMED;
	news->key.protocol = pkt.protocol;
	news->side = make_key(&news->key, &source, &dest, pkt.sport, pkt.dport);
	if (pkt.protocol == IPPROTO_UDP)
		news->headers = pkt.l4 - data + UDP_BYTES;
	if (pkt.protocol != IPPROTO_TCP)
		return OUTCOMES;
	tcp = pkt.l4;
	if (pkt.l4_bytes < sizeof(struct tcphdr) || (void *)(tcp + sizeof(struct tcphdr)) > pkt.end)
		return MALFORMED;
	news->headers = pkt.l4 - data + (tcp[TCP_LENGTH_AT] >> 4) * 4;
	news->flags = tcp[TCP_FLAGS_AT];
	return OUTCOMES;
}

static __noinline struct flow *open_flow(const struct flow_key *key, __u32 ifindex, __u32 opener)
{
	struct flow flow = {};

	if (!key)
		return NULL;
	flow.first_ns = bpf_ktime_get_ns();
	flow.last_ns = flow.first_ns;
	flow.ifindex = ifindex;
	flow.opener = opener;
	/* NOEXIST: the other direction's first packet may be on another CPU. */
	if (!bpf_map_update_elem(&flows, key, &flow, BPF_NOEXIST)) {
		add(&happenings, FLOW_OPENED, 1);
		if (key->protocol == IPPROTO_TCP)
			add(&happenings, TCP_FLOW_OPENED, 1);
	}
	return bpf_map_lookup_elem(&flows, key);
}

/* What comes next with these ports is another flow. */
static __noinline int forget_flow(const struct flow_key *key)
{
	if (key && !bpf_map_delete_elem(&flows, key))
		add(&happenings, FLOW_REPLACED, 1);
	return 0;
}

/* ---- Packets ---- */

static __always_inline bool is_over(const struct flow *flow)
{
	return (flow->sides[0].flags | flow->sides[1].flags) & (FLAG_FIN | FLAG_RST);
}

/* SYN, SYN-ACK, ACK: from here to the answerer and back, then to the opener and back. */
static __noinline int time_handshake(struct flow *flow, __u32 side, __u32 flags)
{
	__u64 now_ns;

	if (!flow)
		return 0;
	now_ns = bpf_ktime_get_ns();
	if (flow->asked_ns && flow->asker != side && (flags & FLAG_ACK))
		flow->sides[side & 1].handshake_us = (now_ns - flow->asked_ns) / 1000 ?: 1;
	flow->asked_ns = flags & FLAG_SYN ? now_ns : 0;
	flow->asker = side;
	return 0;
}

static __always_inline void count_flow(struct news *news)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &news->key);
	struct side *side;

	if (flow && (news->flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN && is_over(flow)) {
		forget_flow(&news->key);
		flow = NULL;
	}
	if (!flow) {
		flow = open_flow(&news->key, news->ifindex, news->side);
		if (!flow) {
			untracked(NO_ROOM, news->packets);
			return;
		}
	}
	if (!flow->ifindex)
		flow->ifindex = news->ifindex;
	side = &flow->sides[news->side & 1];
	__sync_fetch_and_add(&side->packets, news->packets);
	__sync_fetch_and_add(&side->bytes, news->bytes);
	if ((side->flags | news->flags) != side->flags)
		side->flags |= news->flags;
	if (news->flags & FLAG_SYN || flow->asked_ns)
		time_handshake(flow, news->side, news->flags);
	flow->last_ns = lab_now_ns();
	count_port(news, flow);
}

SEC("xdp")
int monitor_traffic(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct news news = { .ifindex = ctx->ingress_ifindex, .packets = 1, .bytes = end - data };
	enum outcome outcome;

	count_interface(news.ifindex, XDP, 1, news.bytes);
	outcome = read_packet(data, end, news.bytes, &news);
	if (outcome == OUTCOMES)
		count_flow(&news);
	else
		untracked(outcome, 1);
	return XDP_PASS;
}

static __always_inline bool is_counted_elsewhere(struct __sk_buff *skb, enum layer layer)
{
	if (layer == TC_INGRESS)
		return is_watched(skb->ifindex, XDP);
	/* What goes out of it comes in by it. */
	if (skb->ifindex == loopback)
		return true;
	if (!skb->ingress_ifindex)
		return false;
	return is_watched(skb->ingress_ifindex, XDP) || is_watched(skb->ingress_ifindex, TC_INGRESS);
}

/* Of all segments: at egress the kernel has worked it out, at ingress a joined packet has its headers once. */
static __always_inline __u32 wire_bytes(const struct __sk_buff *skb, enum layer layer, const struct news *news)
{
	__u32 tags = skb->vlan_present ? news->packets * VLAN_BYTES : 0; /* it lies beside the frame */

	if (news->packets > 1 && layer == TC_EGRESS)
		return skb->wire_len + tags;
	return skb->len + (news->packets - 1) * news->headers + tags;
}

/* The headers may lie in the pages of the payload. */
static __always_inline enum outcome read_skb(struct __sk_buff *skb, struct news *news)
{
	__u32 there = skb->data_end - skb->data;

	if (there < HEADERS && there < skb->len)
		bpf_skb_pull_data(skb, skb->len < HEADERS ? skb->len : HEADERS);
	return read_packet((void *)(long)skb->data, (void *)(long)skb->data_end, skb->len, news);
}

static __always_inline int watch_skb(struct __sk_buff *skb, enum layer layer)
{
	struct news news = { .ifindex = skb->ifindex, .packets = skb->gso_segs ?: 1 };
	bool elsewhere = is_counted_elsewhere(skb, layer);
	enum outcome outcome;

	if (elsewhere && (layer == TC_EGRESS || news.packets == 1)) {
		count_interface(news.ifindex, layer, news.packets, wire_bytes(skb, layer, &news));
		return TC_ACT_UNSPEC;
	}
	outcome = read_skb(skb, &news);
	news.bytes = wire_bytes(skb, layer, &news);
	count_interface(news.ifindex, layer, news.packets, news.bytes);
	if (elsewhere)
		return TC_ACT_UNSPEC;
	if (outcome == OUTCOMES)
		count_flow(&news);
	else
		untracked(outcome, news.packets);
	return TC_ACT_UNSPEC;
}

SEC("tc/ingress")
int monitor_ingress(struct __sk_buff *skb)
{
	return watch_skb(skb, TC_INGRESS);
}

SEC("tc/egress")
int monitor_egress(struct __sk_buff *skb)
{
	return watch_skb(skb, TC_EGRESS);
}

/* ---- Sockets ---- */

/* The key of a socket's flow, and which side it is; false for what is neither IPv4 nor IPv6. */
static __always_inline bool read_socket(struct bpf_sock_ops *ctx, struct flow_key *key, __u32 *side)
{
	struct in6_addr local = {}, remote = {};

	if (ctx->family == FAMILY_IPV4) {
		local = lab_mapped(ctx->local_ip4);
		remote = lab_mapped(ctx->remote_ip4);
	} else if (ctx->family == FAMILY_IPV6) {
		local.s6_addr32[0] = ctx->local_ip6[0];
		local.s6_addr32[1] = ctx->local_ip6[1];
		local.s6_addr32[2] = ctx->local_ip6[2];
		local.s6_addr32[3] = ctx->local_ip6[3];
		remote.s6_addr32[0] = ctx->remote_ip6[0];
		remote.s6_addr32[1] = ctx->remote_ip6[1];
		remote.s6_addr32[2] = ctx->remote_ip6[2];
		remote.s6_addr32[3] = ctx->remote_ip6[3];
	} else {
		return false;
	}
	key->protocol = IPPROTO_TCP;
	/* The remote port is the wire's 16 bits, in the upper half of the word where the machine is little endian. */
	*side = make_key(key, &local, &remote, bpf_htons(ctx->local_port), bpf_htons(bpf_ntohl(ctx->remote_port)));
	return true;
}

/* Under connect() and listen(), who calls is the process; under a packet's callback it is anybody. */
static __always_inline __u32 note_process(void)
{
	struct task_struct *leader = bpf_get_current_task_btf()->group_leader;
	__u32 process = leader->tgid;
	struct name name = {};

	bpf_probe_read_kernel(name.bytes, sizeof(name.bytes), leader->comm);
	bpf_map_update_elem(&processes, &process, &name, BPF_ANY);
	return process;
}

static __always_inline void announce(enum kind kind, __u32 side, const struct flow_key *key, const struct flow *flow)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	__u32 process = flow->sides[side & 1].process;
	struct name *name;

	add(&connections, kind, 1);
	if (!event) {
		untracked(EVENT_LOST, 1);
		return;
	}
	event->kind = kind;
	event->side = side;
	event->at_ns = bpf_ktime_get_ns();
	event->first_ns = flow->first_ns;
	event->key = *key;
	event->socket = flow->sides[side & 1];
	name = bpf_map_lookup_elem(&processes, &process);
	if (name)
		__builtin_memcpy(event->process, name->bytes, NAME_BYTES);
	else
		__builtin_memset(event->process, 0, NAME_BYTES);
	bpf_ringbuf_submit(event, 0);
}

/* KINDS: nothing to tell. */
static __always_inline enum kind kind_of(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		return CONNECTING;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		return CONNECTED;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		return ACCEPTED;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] != CLOSE)
			return KINDS;
		return ctx->args[0] == SYN_SENT || ctx->args[0] == SYN_RECV ? FAILED : CLOSED;
	}
	return KINDS;
}

static __always_inline void note_socket(struct bpf_sock_ops *ctx, __u32 state, __u32 process)
{
	enum kind kind = kind_of(ctx);
	struct flow_key key = {};
	struct flow *flow;
	struct side *socket;
	__u32 side;

	if (!read_socket(ctx, &key, &side))
		return;
	if (kind == CONNECTING)
		forget_flow(&key);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow) {
		flow = open_flow(&key, 0, kind == ACCEPTED ? !side : side);
		if (!flow) {
			untracked(NO_ROOM, 0);
			return;
		}
	}
	socket = &flow->sides[side & 1];
	socket->state = state;
	socket->srtt_us = ctx->srtt_us >> 3;
	socket->retransmits = ctx->total_retrans;
	if (process)
		socket->process = process;
	if (kind != KINDS)
		announce(kind, side, &key, flow);
}

/* A socket has one set of flags for all programs: they are added to and never taken away. */
static __always_inline void call_back(struct bpf_sock_ops *ctx)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | CALLBACKS);
}

static __always_inline void note_listener(struct bpf_sock_ops *ctx)
{
	__u32 process = note_process();

	if (ctx->sk)
		bpf_sk_storage_get(&listeners, ctx->sk, &process, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline __u32 listener_of(struct bpf_sock_ops *ctx)
{
	__u32 *process = ctx->sk ? bpf_sk_storage_get(&listeners, ctx->sk, NULL, 0) : NULL;

	return process ? *process : 0;
}

SEC("sockops")
int monitor_socket(struct bpf_sock_ops *ctx)
{
	__u32 state = ctx->state, process = 0;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		note_listener(ctx);
		return 1;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		call_back(ctx);
		state = SYN_SENT;
		process = note_process();
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		call_back(ctx);
		state = ESTABLISHED;
		process = listener_of(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		state = ESTABLISHED;
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		add(&happenings, SEGMENT_RETRANSMITTED, ctx->args[1]);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		state = ctx->args[1];
		break;
	case BPF_SOCK_OPS_RTT_CB:
		break;
	default:
		return 1;
	}
	note_socket(ctx, state, process);
	return 1;
}

/* ---- Sockets that were there before ---- */

static __always_inline bool is_below(struct cgroup *cgroup, __u64 id)
{
	struct cgroup_subsys_state *above;

	for (int level = 0; id && level < DEEPEST && cgroup; level++) {
		if (cgroup->kn->id == id)
			return true;
		above = cgroup->self.parent;
		cgroup = above ? above->cgroup : NULL;
	}
	return !id;
}

/* Which of the two ends opened the connection is not known: services have the lower ports. */
static __always_inline bool read_ends(const struct sock_common *common, struct flow_key *key, __u32 *side)
{
	struct in6_addr local, remote;

	if (common->skc_family == FAMILY_IPV4) {
		local = lab_mapped(common->skc_rcv_saddr);
		remote = lab_mapped(common->skc_daddr);
	} else {
		local = common->skc_v6_rcv_saddr;
		remote = common->skc_v6_daddr;
	}
	key->protocol = IPPROTO_TCP;
	*side = make_key(key, &local, &remote, bpf_htons(common->skc_num), common->skc_dport);
	return common->skc_num < bpf_ntohs(common->skc_dport);
}

/* A TCP socket of the namespace, under its lock: it has a flow from now on, and its callbacks. */
SEC("iter/tcp")
int monitor_look(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct flow_key key = {};
	struct tcp_sock *tcp;
	struct side *socket;
	struct flow *flow;
	bool is_service;
	__u32 side;
	int flags;

	tcp = common ? bpf_skc_to_tcp_sock(common) : NULL;
	if (!tcp || !is_below(tcp->inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup, looked_at_cgroup))
		return 0;
	if (tcp->inet_conn.icsk_inet.sk.__sk_common.skc_state == LISTEN)
		return 0;
	flags = tcp->bpf_sock_ops_cb_flags | CALLBACKS;
	if (bpf_setsockopt(tcp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags)))
		return 0;
	is_service = read_ends(&tcp->inet_conn.icsk_inet.sk.__sk_common, &key, &side);
	flow = bpf_map_lookup_elem(&flows, &key) ?: open_flow(&key, 0, is_service ? !side : side);
	if (!flow)
		return 0;
	socket = &flow->sides[side & 1];
	socket->state = tcp->inet_conn.icsk_inet.sk.__sk_common.skc_state;
	socket->srtt_us = tcp->srtt_us >> 3;
	socket->retransmits = tcp->total_retrans;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
