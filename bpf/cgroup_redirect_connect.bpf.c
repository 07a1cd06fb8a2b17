/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * cgroup_redirect_connect: a transparent proxy: what a cgroup's processes send to chosen destinations lands at a proxy.
 *
 * A process calls connect() or sendto() with the address that it wants; the socket goes to the proxy instead, before
 * there is a packet: nothing is translated later. getpeername() and recvfrom() still show the address that was asked
 * for. The proxy, which needs no code for this program, asks getsockopt(SO_ORIGINAL_DST) where the client wanted to go.
 *
 * DECISIONS, for each connect() of TCP and UDP, and for each sendto() or sendmsg() of UDP with an address. `outcomes`:
 *   no rule, or a rule DIRECT            DIRECT: as asked for
 *   a rule REDIRECT                      REDIRECTED: to the proxy, which is told
 *     it is the proxy itself             DIRECT_PROXY: as asked for
 *     a process in an `exempt` cgroup    DIRECT_EXEMPT: as asked for; the proxy's own connections are so
 *     no proxy of this family            NO_PROXY: refused, EPERM (fail_open=1: as asked for)
 *     `redirects` is full                NO_ROOM: refused, EPERM (fail_open=1: as asked for)
 *     a UDP socket's ninth peer          REDIRECTED, and SLOT_REUSED: it takes the place of the oldest
 *   and for each getsockopt(SO_ORIGINAL_DST):
 *   of a redirected flow                 TOLD: sockaddr_in at level SOL_IP, sockaddr_in6 at level SOL_IPV6
 *   of any other                         NOT_KNOWN: what the kernel says by itself (ENOENT, ENOPROTOOPT)
 *
 * RULES are prefix, protocol and port (0: any port). The longest prefix decides, and of equally long ones that with a
 * port. IPv4 is ::ffff:a.b.c.d, so an IPv6 socket that connects to a mapped address meets the rules of IPv4. Rules
 * change while it runs; a connection that is made stays as it is.
 *
 * UDP: one socket may talk to several peers, and the proxy's answers must come back as theirs. So the proxy listens on
 * `udp_ports` ports in a row: a socket's n-th peer is reached by the n-th port, and what the n-th port answers is from
 * the n-th peer. To be told, the proxy connects a socket of its own port to the client, and asks that.
 *
 * KNOBS (const volatile, set before load)
 *   fail_open 0    1: what cannot be redirected goes out as it was asked for
 *
 * MAPS
 *   proxy       one entry: where the proxy listens. Address 0: not in this family
 *   rules       LPM trie: protocol, port and prefix -> REDIRECT or DIRECT
 *   exempt      cgroup id -> 1: processes directly in it are left alone
 *   redirects   socket cookie -> what it asked for, and who; until the socket is closed
 *   sources     both ends of a redirected flow, as the proxy sees them -> its socket cookie and peer; the latest 16384:
 *               it outlives the client's socket, which may be closed before the proxy has accepted
 *   outcomes    by enum outcome; per CPU
 *
 * SEVERAL CPUs: all hooks of one socket run under its lock, so an entry of `redirects` has one writer. (getpeername()
 * reads it, and may do so while a second thread connects anew.)
 *
 * KERNEL 5.15 or later by the helpers it calls (the network namespace's cookie in getsockopt). Tried on 6.1, 6.12 and
 * 6.18.
 *
 * NOT HANDLED
 *   A UDP socket that was redirected to loopback by connect(), and connects elsewhere without AF_UNSPEC in between:
 *   it keeps its source address, and the kernel says EINVAL. Sockets that are connected when it is attached: they stay
 *   so. Raw, ping, SCTP and MPTCP sockets: as asked for. IP_TRANSPARENT: the server sees the proxy's address. IPv6
 *   extension headers set by the sender of UDP: redirected, but the proxy is not told. getsockname() shows the address
 *   of the way to the proxy. Clients in two namespaces with equal addresses and one proxy outside of both: the proxy
 *   cannot tell them apart (with a proxy on loopback each namespace is its own).
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lab/address.h>

#define SLOTS	   8
#define REDIRECTS  65536
#define SOURCES	   16384
#define FAMILY_IP4 2
#define FAMILY_IP6 10
#define PAGE	   4096

#define SOL_IP		0
#define SOL_IPV6	41
#define SO_ORIGINAL_DST 80 /* linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST has the same number */

const volatile bool fail_open = 0;

enum action {
	DIRECT_RULE,
	REDIRECT,
};

enum outcome {
	DIRECT,
	DIRECT_EXEMPT,
	DIRECT_PROXY,
	REDIRECTED,
	NO_PROXY,
	NO_ROOM,
	SLOT_REUSED,
	TOLD,
	NOT_KNOWN,
	OUTCOMES,
};

struct proxy {
	struct in6_addr address4; /* mapped */
	struct in6_addr address6;
	__be16 tcp_port;
	__be16 udp_port; /* the first of them */
	__u16 udp_ports; /* 1 to SLOTS */
	__u16 reserved;
};

struct rule_key {
	__u32 prefixlen; /* 32 bits of protocol and port, which always count, and those of the address */
	__u16 protocol;	 /* IPPROTO_TCP or IPPROTO_UDP */
	__be16 port;	 /* 0: any */
	struct in6_addr address;
};

struct rule {
	enum action action;
	__u32 bits; /* of the address */
	/* Redirected by it, modulo 2^32: the value lies behind 20 bytes of key, where an atomic of 64 bits may lie
	 * across two cache lines, which costs 1.5 us where the machine allows it at all. */
	__u32 hits;
};

struct peer {
	struct in6_addr address;
	__be16 port;
	__u16 reserved;
};

struct redirect {
	__u64 netns_cookie; /* of the client, where the proxy is on loopback; else 0 */
	__u64 since_ns;
	__u32 pid;
	__u8 protocol;
	__u8 used;	/* slots */
	__u8 next;	/* the slot that a new peer gets */
	__u8 connected; /* its slot and 1; 0: an unconnected UDP socket */
	char comm[16];
	struct peer peers[SLOTS];
};

struct source_key {
	__u64 netns_cookie;
	struct in6_addr client;
	struct in6_addr proxy;
	__be16 client_port;
	__be16 proxy_port;
	__u32 protocol;
};

struct source {
	__u64 cookie;
	struct peer peer;
	__u32 pid;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct proxy);
} proxy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct rule_key);
	__type(value, struct rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u32);
} exempt SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, REDIRECTS);
	__type(key, __u64);
	__type(value, struct redirect);
} redirects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SOURCES);
	__type(key, struct source_key);
	__type(value, struct source);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, enum outcome);
	__type(value, __u64);
} outcomes SEC(".maps");

/* What a hook was asked for. */
struct way {
	struct peer asked;
	__u32 protocol;
	bool connects;
};

/* What comes of it. */
enum answer {
	REFUSE,
	AS_ASKED,
	TO_PROXY,
};

/* ---- Small steps ---- */

/* Atomic, although per CPU: hooks run in process context, and may be interrupted by one for a packet. */
static __always_inline void count(enum outcome outcome)
{
	__u64 *times = bpf_map_lookup_elem(&outcomes, &outcome);

	if (times)
		__sync_fetch_and_add(times, 1);
}

static __always_inline bool is_same(const struct in6_addr *a, const struct in6_addr *b)
{
	return a->s6_addr32[0] == b->s6_addr32[0] && a->s6_addr32[1] == b->s6_addr32[1] &&
	       a->s6_addr32[2] == b->s6_addr32[2] && a->s6_addr32[3] == b->s6_addr32[3];
}

static __always_inline bool is_none(const struct in6_addr *a)
{
	return !a->s6_addr32[0] && !a->s6_addr32[1] && !a->s6_addr32[2] && !a->s6_addr32[3];
}

static __always_inline bool is_loopback(const struct in6_addr *a)
{
	if (lab_is_mapped(a))
		return a->s6_addr[12] == 127;
	return !a->s6_addr32[0] && !a->s6_addr32[1] && !a->s6_addr32[2] && a->s6_addr32[3] == bpf_htonl(1);
}

static __always_inline const struct proxy *the_proxy(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&proxy, &only);
}

/* The slot that a port of the proxy stands for; SLOTS or more: it is none of its ports. */
static __always_inline __u32 slot_of(const struct proxy *proxy, __u32 protocol, __be16 port)
{
	__u32 slot;

	if (protocol == IPPROTO_TCP)
		return port == proxy->tcp_port ? 0 : SLOTS;
	slot = (__u16)(bpf_ntohs(port) - bpf_ntohs(proxy->udp_port));
	return slot < proxy->udp_ports ? slot : SLOTS;
}

static __always_inline bool is_proxy(const struct proxy *proxy, __u32 protocol, const struct peer *peer)
{
	if (!is_same(&peer->address, &proxy->address4) && !is_same(&peer->address, &proxy->address6))
		return false;
	return slot_of(proxy, protocol, peer->port) < SLOTS;
}

/* The mask tells the verifier what clang, which would leave it out, knows already. */
static __always_inline struct peer *peer_in(struct redirect *redirect, __u32 slot)
{
	asm volatile("" : "+r"(slot));
	return &redirect->peers[slot & (SLOTS - 1)];
}

/* ---- Rules ---- */

static __always_inline struct rule *rule_for(const struct way *way)
{
	struct rule *with_port, *any_port;
	struct rule_key key = {};

	key.prefixlen = 32 + 128;
	key.protocol = way->protocol;
	key.port = way->asked.port;
	key.address = way->asked.address;
	with_port = bpf_map_lookup_elem(&rules, &key);
	key.port = 0;
	any_port = bpf_map_lookup_elem(&rules, &key);
	if (!with_port || (any_port && any_port->bits > with_port->bits))
		return any_port;
	return with_port;
}

static __always_inline bool is_exempt(void)
{
	__u64 cgroup_id = bpf_get_current_cgroup_id();

	return bpf_map_lookup_elem(&exempt, &cgroup_id);
}

/* ---- The client's side ---- */

static __always_inline bool is_asked(const struct peer *peer, const struct peer *asked)
{
	return peer->port == asked->port && is_same(&peer->address, &asked->address);
}

/* The slot of a peer that the socket has already, or else a new one, at the cost of its oldest if need be. */
static __always_inline __u32 take_slot(struct redirect *redirect, const struct peer *asked, __u32 slots)
{
	__u32 slot;

#pragma unroll
	for (slot = 0; slot < SLOTS; slot++)
		if (slot < redirect->used && is_asked(&redirect->peers[slot], asked))
			return slot;
	slot = redirect->next < slots ? redirect->next : 0;
	redirect->next = slot + 1;
	if (redirect->used < slots)
		redirect->used++;
	else
		count(SLOT_REUSED);
	*peer_in(redirect, slot) = *asked;
	return slot;
}

static __always_inline struct redirect *new_redirect(__u64 cookie, __u32 protocol)
{
	struct redirect redirect = {};

	redirect.protocol = protocol;
	redirect.since_ns = bpf_ktime_get_ns();
	redirect.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(redirect.comm, sizeof(redirect.comm));
	if (bpf_map_update_elem(&redirects, &cookie, &redirect, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&redirects, &cookie);
}

/* A socket that connects elsewhere has no redirected peer any more. */
static __always_inline enum answer leave(struct bpf_sock_addr *ctx, const struct way *way, enum outcome outcome)
{
	struct redirect *redirect;
	__u64 cookie;

	count(outcome);
	if (way->connects) {
		cookie = bpf_get_socket_cookie(ctx);
		redirect = bpf_map_lookup_elem(&redirects, &cookie);
		if (redirect)
			redirect->connected = 0;
	}
	return AS_ASKED;
}

static __always_inline enum answer cannot(struct bpf_sock_addr *ctx, const struct way *way, enum outcome outcome)
{
	if (fail_open)
		return leave(ctx, way, outcome);
	count(outcome);
	return REFUSE;
}

/* TO_PROXY when the hook must write `to` in place of what was asked for. */
static __noinline enum answer decide(struct bpf_sock_addr *ctx, const struct way *way, struct peer *to)
{
	const struct proxy *proxy = the_proxy();
	struct redirect *redirect;
	struct rule *rule;
	__u64 cookie;
	__u32 slot;

	if (!proxy || !way || !to || (way->protocol != IPPROTO_TCP && way->protocol != IPPROTO_UDP))
		return AS_ASKED;
	rule = rule_for(way);
	if (!rule || rule->action != REDIRECT)
		return leave(ctx, way, DIRECT);
	if (is_proxy(proxy, way->protocol, &way->asked))
		return leave(ctx, way, DIRECT_PROXY);
	if (is_exempt())
		return leave(ctx, way, DIRECT_EXEMPT);
	__sync_fetch_and_add(&rule->hits, 1);

	to->address = lab_is_mapped(&way->asked.address) ? proxy->address4 : proxy->address6;
	to->port = way->protocol == IPPROTO_TCP ? proxy->tcp_port : proxy->udp_port;
	if (is_none(&to->address) || !to->port)
		return cannot(ctx, way, NO_PROXY);
	cookie = bpf_get_socket_cookie(ctx);
	redirect = bpf_map_lookup_elem(&redirects, &cookie);
	if (!redirect || way->protocol == IPPROTO_TCP)
		redirect = new_redirect(cookie, way->protocol);
	if (!redirect)
		return cannot(ctx, way, NO_ROOM);
	redirect->netns_cookie = is_loopback(&to->address) ? bpf_get_netns_cookie(ctx) : 0;
	slot = take_slot(redirect, &way->asked, way->protocol == IPPROTO_TCP ? 1 : proxy->udp_ports);
	if (way->connects)
		redirect->connected = slot + 1;
	to->port = bpf_htons(bpf_ntohs(to->port) + slot);
	count(REDIRECTED);
	return TO_PROXY;
}

static __always_inline int redirect4(struct bpf_sock_addr *ctx, bool connects)
{
	struct way way = { .protocol = ctx->protocol, .connects = connects };
	struct peer to = {};
	enum answer answer;

	way.asked.address = lab_mapped(ctx->user_ip4);
	way.asked.port = ctx->user_port;
	answer = decide(ctx, &way, &to);
	if (answer != TO_PROXY)
		return answer;
	ctx->user_ip4 = to.address.s6_addr32[3];
	ctx->user_port = to.port;
	return AS_ASKED;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct peer *to)
{
	ctx->user_ip6[0] = to->address.s6_addr32[0];
	ctx->user_ip6[1] = to->address.s6_addr32[1];
	ctx->user_ip6[2] = to->address.s6_addr32[2];
	ctx->user_ip6[3] = to->address.s6_addr32[3];
	ctx->user_port = to->port;
}

static __always_inline void read6(struct bpf_sock_addr *ctx, struct peer *from)
{
	from->address.s6_addr32[0] = ctx->user_ip6[0];
	from->address.s6_addr32[1] = ctx->user_ip6[1];
	from->address.s6_addr32[2] = ctx->user_ip6[2];
	from->address.s6_addr32[3] = ctx->user_ip6[3];
	from->port = ctx->user_port;
}

static __always_inline int redirect6(struct bpf_sock_addr *ctx, bool connects)
{
	struct way way = { .protocol = ctx->protocol, .connects = connects };
	struct peer to = {};
	enum answer answer;

	read6(ctx, &way.asked);
	answer = decide(ctx, &way, &to);
	if (answer != TO_PROXY)
		return answer;
	write6(ctx, &to);
	return AS_ASKED;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return redirect4(ctx, true);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return redirect6(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return redirect4(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return redirect6(ctx, false);
}

/* ---- What the client is shown ---- */

/* The peer that a socket asked for and that now is seen as `seen`, an address of the proxy; false: nothing to hide. */
static __always_inline bool asked_for(struct bpf_sock_addr *ctx, const struct peer *seen, bool is_peername,
				      struct peer *asked)
{
	const struct proxy *proxy = the_proxy();
	struct redirect *redirect;
	__u64 cookie;
	__u32 slot;

	if (!proxy)
		return false;
	slot = slot_of(proxy, ctx->protocol, seen->port);
	if (slot >= SLOTS || !is_proxy(proxy, ctx->protocol, seen))
		return false;
	cookie = bpf_get_socket_cookie(ctx);
	redirect = bpf_map_lookup_elem(&redirects, &cookie);
	if (!redirect || slot >= redirect->used || (is_peername && redirect->connected != slot + 1))
		return false;
	*asked = *peer_in(redirect, slot);
	return true;
}

static __always_inline int show4(struct bpf_sock_addr *ctx, bool is_peername)
{
	struct peer seen = {}, asked;

	seen.address = lab_mapped(ctx->user_ip4);
	seen.port = ctx->user_port;
	if (asked_for(ctx, &seen, is_peername, &asked)) {
		ctx->user_ip4 = asked.address.s6_addr32[3];
		ctx->user_port = asked.port;
	}
	return 1;
}

static __always_inline int show6(struct bpf_sock_addr *ctx, bool is_peername)
{
	struct peer seen = {}, asked;

	read6(ctx, &seen);
	if (asked_for(ctx, &seen, is_peername, &asked))
		write6(ctx, &asked);
	return 1;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return show4(ctx, true);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return show6(ctx, true);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return show4(ctx, false);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return show6(ctx, false);
}

SEC("cgroup/sock_release")
int forget(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	/* Most sockets have no entry, and a look costs less than a delete in vain, which takes a lock. */
	if (bpf_map_lookup_elem(&redirects, &cookie))
		bpf_map_delete_elem(&redirects, &cookie);
	return 1;
}

/* ---- What the proxy is told ---- */

/* The key's ends are those of the flow; which of the client's sockets it is, and where that wanted to go, goes with it.
 */
static __always_inline bool learn(struct source_key *key, __u64 cookie, __u32 slot)
{
	struct redirect *redirect = bpf_map_lookup_elem(&redirects, &cookie);
	struct source source = {}, *known;

	if (!redirect || slot >= redirect->used || redirect->protocol != key->protocol)
		return false;
	if (key->protocol == IPPROTO_TCP && !redirect->connected)
		return false;
	key->netns_cookie = redirect->netns_cookie;
	source.cookie = cookie;
	source.peer = *peer_in(redirect, slot);
	source.pid = redirect->pid;
	/* TCP comes here once, but UDP with each datagram, and mostly finds all as it should be. */
	known = key->protocol == IPPROTO_UDP ? bpf_map_lookup_elem(&sources, key) : NULL;
	if (!known || known->cookie != cookie || !is_asked(&known->peer, &source.peer))
		bpf_map_update_elem(&sources, key, &source, BPF_ANY);
	return true;
}

/* TCP has its port by now, and the SYN is not sent yet. */
SEC("sockops")
int learn_tcp(struct bpf_sock_ops *ctx)
{
	const struct proxy *proxy = the_proxy();
	struct source_key key = { .protocol = IPPROTO_TCP };

	if (!proxy || ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	key.proxy_port = ctx->remote_port >> 16; /* the kernel puts the 16 bits of wire order into the upper half */
	if (key.proxy_port != proxy->tcp_port)
		return 1;
	key.client_port = bpf_htons(ctx->local_port);
	if (ctx->family == FAMILY_IP4) {
		key.client = lab_mapped(ctx->local_ip4);
		key.proxy = lab_mapped(ctx->remote_ip4);
	} else {
		key.client.s6_addr32[0] = ctx->local_ip6[0];
		key.client.s6_addr32[1] = ctx->local_ip6[1];
		key.client.s6_addr32[2] = ctx->local_ip6[2];
		key.client.s6_addr32[3] = ctx->local_ip6[3];
		key.proxy.s6_addr32[0] = ctx->remote_ip6[0];
		key.proxy.s6_addr32[1] = ctx->remote_ip6[1];
		key.proxy.s6_addr32[2] = ctx->remote_ip6[2];
		key.proxy.s6_addr32[3] = ctx->remote_ip6[3];
	}
	if (learn(&key, bpf_get_socket_cookie(ctx), 0))
		return 1;
	/* It wants the proxy itself, and may have the port of one that did not. */
	key.netns_cookie = is_loopback(&key.proxy) ? bpf_get_netns_cookie(ctx) : 0;
	bpf_map_delete_elem(&sources, &key);
	return 1;
}

/* UDP has its port, and its address, only in the datagram. */
SEC("cgroup_skb/egress")
int learn_udp(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct proxy *proxy = the_proxy();
	struct source_key key = { .protocol = IPPROTO_UDP };
	struct iphdr *ip4 = data;
	struct ipv6hdr *ip6 = data;
	struct udphdr *udp;
	__u32 slot;

	if (!proxy)
		return 1;
	if (skb->protocol == bpf_htons(ETH_P_IP) && (void *)(ip4 + 1) <= end && ip4->protocol == IPPROTO_UDP)
		udp = data + ip4->ihl * 4;
	else if (skb->protocol == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end && ip6->nexthdr == IPPROTO_UDP)
		udp = (void *)(ip6 + 1);
	else
		return 1;
	if ((void *)(udp + 1) > end)
		return 1;
	slot = slot_of(proxy, IPPROTO_UDP, udp->dest);
	if (slot >= SLOTS)
		return 1;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		key.client = lab_mapped(ip4->saddr);
		key.proxy = lab_mapped(ip4->daddr);
	} else {
		key.client = ip6->saddr;
		key.proxy = ip6->daddr;
	}
	if (!is_same(&key.proxy, &proxy->address4) && !is_same(&key.proxy, &proxy->address6))
		return 1;
	key.client_port = udp->source;
	key.proxy_port = udp->dest;
	learn(&key, bpf_get_socket_cookie(skb), slot);
	return 1;
}

static __always_inline void read_accepted(const struct bpf_sock *socket, struct source_key *key)
{
	key->protocol = socket->protocol;
	key->client_port = socket->dst_port;
	key->proxy_port = bpf_htons(socket->src_port);
	if (socket->family == FAMILY_IP4) {
		key->client = lab_mapped(socket->dst_ip4);
		key->proxy = lab_mapped(socket->src_ip4);
		return;
	}
	key->client.s6_addr32[0] = socket->dst_ip6[0];
	key->client.s6_addr32[1] = socket->dst_ip6[1];
	key->client.s6_addr32[2] = socket->dst_ip6[2];
	key->client.s6_addr32[3] = socket->dst_ip6[3];
	key->proxy.s6_addr32[0] = socket->src_ip6[0];
	key->proxy.s6_addr32[1] = socket->src_ip6[1];
	key->proxy.s6_addr32[2] = socket->src_ip6[2];
	key->proxy.s6_addr32[3] = socket->src_ip6[3];
}

/* struct sockaddr_in or sockaddr_in6 by the family of the original destination, as netfilter answers. */
static __always_inline bool answer(struct bpf_sockopt *ctx, const struct peer *peer)
{
	struct sockaddr_in *in4 = ctx->optval;
	struct sockaddr_in6 *in6 = ctx->optval;

	if (lab_is_mapped(&peer->address)) {
		if (ctx->level != SOL_IP || (void *)(in4 + 1) > ctx->optval_end)
			return false;
		__builtin_memset(in4, 0, sizeof(*in4));
		in4->sin_family = FAMILY_IP4;
		in4->sin_port = peer->port;
		in4->sin_addr.s_addr = peer->address.s6_addr32[3];
		ctx->optlen = sizeof(*in4);
	} else {
		if (ctx->level != SOL_IPV6 || (void *)(in6 + 1) > ctx->optval_end)
			return false;
		__builtin_memset(in6, 0, sizeof(*in6));
		in6->sin6_family = FAMILY_IP6;
		in6->sin6_port = peer->port;
		in6->sin6_addr = peer->address;
		ctx->optlen = sizeof(*in6);
	}
	ctx->retval = 0;
	return true;
}

SEC("cgroup/getsockopt")
int tell_original(struct bpf_sockopt *ctx)
{
	struct source_key key = {};
	struct source *source;

	if (ctx->optname != SO_ORIGINAL_DST || (ctx->level != SOL_IP && ctx->level != SOL_IPV6)) {
		/* The kernel shows us one page: without this, longer answers would fail with EFAULT. */
		if (ctx->optlen > PAGE)
			ctx->optlen = 0;
		return 1;
	}
	if (!ctx->sk)
		return 1;
	read_accepted(ctx->sk, &key);
	if (is_loopback(&key.proxy))
		key.netns_cookie = bpf_get_netns_cookie(ctx);
	source = bpf_map_lookup_elem(&sources, &key);
	if (!source)
		count(NOT_KNOWN);
	else if (answer(ctx, &source->peer))
		count(TOLD);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
