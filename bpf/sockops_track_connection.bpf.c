/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * sockops_track_connection: the TCP connections of a cgroup's processes: who, since when, RTT, bytes, retransmits, end.
 *
 * Attached to a cgroup it sees every TCP socket made in it or below. A socket has one entry in `connections` from its
 * connect(), listen() or accepted handshake until it closes; then its last numbers go out as an event, and the entry
 * goes. It watches: no socket behaves otherwise than without it.
 *
 * DECISIONS. The program always returns 1. What it does at which callback:
 *   connect()                         entry, ACTIVE
 *   listen()                          entry, LISTENER
 *   handshake done, active            established_ns
 *   handshake done, passive           entry, PASSIVE; its cgroup is the listener's
 *   RTT sample                        srtt, largest sample, and all other numbers
 *   retransmission                    all numbers
 *   change of state                   state, the time of it, `transitions`; to CLOSE: event, entry gone
 *   no room in `connections`          the socket is not tracked, asks for no callbacks. happenings: NOT_TRACKED
 *   no room in `events`               the entry goes all the same. happenings: EVENT_LOST
 *   no room in `cgroups`              the connection is tracked, but in no sum. happenings: CGROUP_LEFT_OUT
 *   a socket without an entry         its callbacks are for another program, or it died between the listener and the
 *                                     end of its handshake. happenings: STRANGER
 *
 * ENDS, from the state before CLOSE and the error that the kernel left on the socket:
 *   CLOSED         both sides sent a FIN                     REFUSED        connect() met a reset
 *   RESET          the peer's reset                          TIMED_OUT      nobody answered any more
 *   ABORTED        ours: unread data, SO_LINGER 0, a kill    FAILED         another error (no route, ...): `error`
 *   GIVEN_UP       closed before the handshake was done      STOPPED        a listener
 *
 * NUMBERS are the kernel's own, of the socket: bytes of the stream that the peer acknowledged, and that came in order;
 * the SYN and FIN, which the kernel counts in, are taken out. They are as of the last callback: what only receives has
 * no RTT samples, so look() of bpf/sockops_track_connection.py reads them all afresh. What an ADOPTED one sent may
 * be a byte high: who sent the first SYN is not known.
 *
 * BEFORE IT WAS ATTACHED: sockets that exist already call no callback. The program `look` (iter/tcp, run by look())
 * goes through all TCP sockets of a network namespace: those of the cgroup get an entry, ADOPTED, and their callbacks.
 *
 * KNOBS (const volatile, set before load)
 *   tell_changes 0   1: an event KIND_CHANGED for each change of state, too
 *
 * MAPS
 *   connections   socket cookie -> struct connection: those that live; 131072, change it by load(max_entries=...)
 *   cgroups       cgroup id -> sums over its connections: opened, how they ended, and bytes of those that have
 *   transitions   how often a socket went from one state to another; per CPU
 *   happenings    by enum happening; per CPU
 *   endings       how they ended, by enum ending; per CPU
 *   events        ring buffer of struct event: KIND_CLOSED with the last numbers (and KIND_CHANGED)
 *
 * SEVERAL CPUs: callbacks of one socket come under its lock, so an entry has one writer. Sums are atomic.
 *
 * KERNEL 5.15 or later by what it reads (the cgroup of a socket); `look` adopts from 6.12 on (setsockopt of the
 * callbacks), and else counts NOT_TRACKED. Tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   The SYN queue: a handshake that never ends has no socket yet. TIME_WAIT: the kernel's TIME_WAIT entry is no socket,
 *   the connection ends as it begins. A FIN that never came to an orphan in FIN_WAIT2 counts as CLOSED. MPTCP: its
 *   subflows are connections. A processes' move to another cgroup: a socket stays in the one it was made in.
 */
#include <stdbool.h>
#include <errno.h>
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lab/address.h>
#include <lab/tcp_sock.h>
#include <lab/tcp_state.h>

#define CONNECTIONS		  131072
#define CGROUPS			  1024
#define DEEPEST			  32 /* cgroup levels */
#define FAMILY_IPV4		  2
#define CALLBACKS		  (BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG)
#define SOL_TCP			  6
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008 /* since Linux 6.12 */

const volatile bool tell_changes = 0;

enum role {
	ACTIVE,
	PASSIVE,
	LISTENER,
	ADOPTED,
	ROLES,
};

enum ending {
	OPEN,
	CLOSED,
	RESET,
	ABORTED,
	REFUSED,
	TIMED_OUT,
	FAILED,
	GIVEN_UP,
	STOPPED,
	ENDINGS,
};

enum happening {
	OPENED_ACTIVE,
	OPENED_PASSIVE,
	OPENED_LISTENER,
	OPENED_ADOPTED,
	ENDED,
	NOT_TRACKED,
	EVENT_LOST,
	CGROUP_LEFT_OUT,
	STRANGER,
	HAPPENINGS,
};

enum kind {
	KIND_CHANGED,
	KIND_CLOSED,
};

struct connection {
	__u64 cgroup_id;
	struct in6_addr local; /* IPv4 as ::ffff:a.b.c.d */
	struct in6_addr remote;
	__be16 local_port;
	__be16 remote_port;
	enum role role : 8;
	enum tcp_state state : 8;
	enum ending ending : 8;
	__u8 reserved;
	__u64 entered_ns[TCP_STATES]; /* when it last came into each state, CLOCK_MONOTONIC; 0: never */
	__u64 opened_ns;
	__u64 established_ns; /* 0: not, or not seen */
	__u64 bytes_sent;     /* acknowledged by the peer */
	__u64 bytes_received;
	__u32 segments_out;
	__u32 segments_in;
	__u32 retransmits;
	__u32 srtt_us;	  /* smoothed; 0: no sample yet */
	__u32 rtt_min_us; /* the kernel's, over its last minutes */
	__u32 rtt_max_us; /* of the samples since it was tracked */
	__u32 rtt_samples;
	__u32 window; /* congestion window, segments */
	__u32 error;  /* errno at the end */
	__u32 netns;  /* inode of its network namespace */
};

struct event {
	enum kind kind;
	enum tcp_state before;
	__u64 cookie;
	struct connection connection;
};
const struct event *kept_for_btf __attribute__((unused));

struct transition {
	enum tcp_state before;
	enum tcp_state after;
};

struct sums {
	__u64 opened[ROLES];
	__u64 ended[ENDINGS];
	__u64 bytes_sent; /* these of connections that have ended */
	__u64 bytes_received;
	__u64 retransmits;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CONNECTIONS);
	__type(key, __u64);
	__type(value, struct connection);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CGROUPS);
	__type(key, __u64);
	__type(value, struct sums);
} cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, TCP_STATES *TCP_STATES);
	__type(key, struct transition);
	__type(value, __u64);
} transitions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HAPPENINGS);
	__type(key, enum happening);
	__type(value, __u64);
} happenings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ENDINGS);
	__type(key, enum ending);
	__type(value, __u64);
} endings SEC(".maps");

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

/* Set by look(): whose sockets the program `look` takes; 0: everybody's. */
__u64 looked_at_cgroup;

/* ---- Counting ---- */

/* Atomic, although per CPU: a callback under connect() may be interrupted by one for a packet. */
static __always_inline void count(enum happening kind)
{
	__u64 *times = bpf_map_lookup_elem(&happenings, &kind);

	if (times)
		__sync_fetch_and_add(times, 1);
}

static __always_inline void count_ending(enum ending ending)
{
	__u64 *times = bpf_map_lookup_elem(&endings, &ending);

	if (times)
		__sync_fetch_and_add(times, 1);
}

static __always_inline void count_transition(enum tcp_state from, enum tcp_state to)
{
	struct transition transition = { from, to };
	__u64 *times = bpf_map_lookup_elem(&transitions, &transition), none = 0;

	if (!times) {
		bpf_map_update_elem(&transitions, &transition, &none, BPF_NOEXIST);
		times = bpf_map_lookup_elem(&transitions, &transition);
	}
	if (times)
		__sync_fetch_and_add(times, 1);
}

static __noinline struct sums *sums_of(__u64 cgroup_id)
{
	struct sums *sums = bpf_map_lookup_elem(&cgroups, &cgroup_id);
	struct sums none = {};

	if (sums)
		return sums;
	bpf_map_update_elem(&cgroups, &cgroup_id, &none, BPF_NOEXIST);
	sums = bpf_map_lookup_elem(&cgroups, &cgroup_id);
	if (!sums)
		count(CGROUP_LEFT_OUT);
	return sums;
}

/* ---- What a socket says ---- */

static __always_inline void read_ends(struct connection *connection, const struct tcp_sock *tcp)
{
	const struct sock_common *common = &tcp->inet_conn.icsk_inet.sk.__sk_common;

	connection->local_port = bpf_htons(common->skc_num);
	connection->remote_port = common->skc_dport;
	if (common->skc_family == FAMILY_IPV4) {
		connection->local = lab_mapped(common->skc_rcv_saddr);
		connection->remote = lab_mapped(common->skc_daddr);
	} else {
		connection->local = common->skc_v6_rcv_saddr;
		connection->remote = common->skc_v6_daddr;
	}
}

/* A SYN and a FIN take a number of the sequence each, which the kernel counts as a byte. A passive socket is born with
 * its SYN acknowledged. */
static __always_inline void read_bytes(struct connection *connection, const struct tcp_sock *tcp)
{
	bool syn = connection->role == ACTIVE && connection->established_ns;
	bool fin_acked = connection->entered_ns[FIN_WAIT2] || connection->ending == CLOSED;
	bool fin_came =
		connection->entered_ns[CLOSE_WAIT] || connection->entered_ns[CLOSING] || connection->ending == CLOSED;

	connection->bytes_sent = tcp->bytes_acked - syn - fin_acked;
	connection->bytes_received = tcp->bytes_received - fin_came;
}

static __always_inline void read_numbers(struct connection *connection, const struct tcp_sock *tcp)
{
	read_bytes(connection, tcp);
	connection->segments_out = tcp->segs_out;
	connection->segments_in = tcp->segs_in;
	connection->retransmits = tcp->total_retrans;
	connection->srtt_us = tcp->srtt_us >> 3;
	connection->rtt_min_us = tcp->rtt_min.s[0].v == ~0U ? 0 : tcp->rtt_min.s[0].v;
	connection->window = tcp->snd_cwnd;
}

/* Our reset in FIN_WAIT2 differs from an orderly end in that the socket had still its process, and no FIN had come. */
static __always_inline enum ending ending_of(enum role role, enum tcp_state from, const struct sock *sk)
{
	bool is_left = sk->__sk_common.skc_flags & (1 << SOCK_DEAD | 1 << SOCK_DONE);

	if (role == LISTENER)
		return STOPPED;
	switch (sk->sk_err) {
	case 0:
		break;
	case ECONNREFUSED:
		return REFUSED;
	case ECONNRESET:
	case EPIPE: /* the reset of a half-closed connection */
		return RESET;
	case ETIMEDOUT:
		return TIMED_OUT;
	case ECONNABORTED: /* ss --kill */
		return ABORTED;
	default:
		return FAILED;
	}
	switch (from) {
	case FIN_WAIT2:
		return is_left ? CLOSED : ABORTED;
	case CLOSING:
	case LAST_ACK:
		return CLOSED;
	case CLOSE:
	case SYN_SENT:
	case SYN_RECV:
		return GIVEN_UP;
	default:
		return ABORTED;
	}
}

/* ---- An entry's life ---- */

/* False: there is no room. */
static __noinline bool open_entry(__u64 cookie, struct tcp_sock *tcp, enum role role)
{
	struct connection connection = {};
	struct sums *sums;
	__u32 state;

	if (!tcp)
		return false;
	state = tcp->inet_conn.icsk_inet.sk.__sk_common.skc_state;
	connection.role = role;
	connection.state = state;
	connection.opened_ns = bpf_ktime_get_ns();
	connection.cgroup_id = tcp->inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup->kn->id;
	connection.netns = tcp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net->ns.inum;
	if (state < TCP_STATES)
		connection.entered_ns[state] = connection.opened_ns;
	if (role == PASSIVE)
		connection.established_ns = connection.opened_ns;
	read_ends(&connection, tcp);
	read_numbers(&connection, tcp);
	/* A socket that was tracked, closed and is used again has no entry by now. */
	if (bpf_map_update_elem(&connections, &cookie, &connection, BPF_ANY))
		return false;
	count(OPENED_ACTIVE + role);
	sums = sums_of(connection.cgroup_id);
	if (sums && role < ROLES)
		__sync_fetch_and_add(&sums->opened[role], 1);
	return true;
}

static __always_inline void announce(enum kind kind, enum tcp_state from, __u64 cookie, struct connection *connection)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(EVENT_LOST);
		return;
	}
	event->kind = kind;
	event->before = from;
	event->cookie = cookie;
	event->connection = *connection;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline void add_to_sums(const struct connection *connection)
{
	struct sums *sums = sums_of(connection->cgroup_id);
	__u32 ending = connection->ending;

	/* Otherwise clang checks one copy of the byte and uses another. */
	asm volatile("" : "+r"(ending));
	if (!sums || ending >= ENDINGS)
		return;
	__sync_fetch_and_add(&sums->ended[ending], 1);
	__sync_fetch_and_add(&sums->bytes_sent, connection->bytes_sent);
	__sync_fetch_and_add(&sums->bytes_received, connection->bytes_received);
	__sync_fetch_and_add(&sums->retransmits, connection->retransmits);
}

static __always_inline void change_state(__u64 cookie, struct tcp_sock *tcp, __u32 from, __u32 to)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &cookie);

	if (from >= TCP_STATES || to >= TCP_STATES)
		return;
	if (!connection) {
		if (to == CLOSE)
			count(STRANGER);
		return;
	}
	count_transition(from, to);
	connection->state = to;
	connection->entered_ns[to] = bpf_ktime_get_ns();
	if (to == ESTABLISHED && !connection->established_ns)
		connection->established_ns = connection->entered_ns[to];
	if (to == CLOSE) {
		connection->error = tcp->inet_conn.icsk_inet.sk.sk_err;
		connection->ending = ending_of(connection->role, from, &tcp->inet_conn.icsk_inet.sk);
	}
	read_ends(connection, tcp);
	read_numbers(connection, tcp);
	if (to != CLOSE) {
		if (tell_changes)
			announce(KIND_CHANGED, from, cookie, connection);
		return;
	}
	announce(KIND_CLOSED, from, cookie, connection);
	add_to_sums(connection);
	count_ending(connection->ending);
	count(ENDED);
	bpf_map_delete_elem(&connections, &cookie);
}

static __always_inline void sample(__u64 cookie, const struct tcp_sock *tcp, bool is_rtt, __u32 rtt_us)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &cookie);

	if (!connection)
		return;
	read_numbers(connection, tcp);
	if (!is_rtt)
		return;
	connection->rtt_samples++;
	/* Kernels before 6.10 don't hand the sample over: the smoothed one then stands in. */
	if (!rtt_us)
		rtt_us = connection->srtt_us;
	if (rtt_us > connection->rtt_max_us)
		connection->rtt_max_us = rtt_us;
}

/* ---- Programs ---- */

/* A socket has one set of flags for all programs: they are added to and never taken away. */
static __always_inline void open_socket(struct bpf_sock_ops *ctx, __u64 cookie, struct tcp_sock *tcp, enum role role)
{
	if (open_entry(cookie, tcp, role)) {
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | CALLBACKS);
		return;
	}
	count(NOT_TRACKED);
}

SEC("sockops")
int sockops_track_connection(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *socket = ctx->sk;
	struct tcp_sock *tcp;
	__u64 cookie;

	if (!socket)
		return 1;
	tcp = bpf_skc_to_tcp_sock(socket);
	if (!tcp)
		return 1;
	cookie = bpf_get_socket_cookie(ctx);
	switch (ctx->op) {
	case BPF_SOCK_OPS_RTT_CB:
		sample(cookie, tcp, true, ctx->args[0]);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		sample(cookie, tcp, false, 0);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		change_state(cookie, tcp, ctx->args[0], ctx->args[1]);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		open_socket(ctx, cookie, tcp, ACTIVE);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		open_socket(ctx, cookie, tcp, LISTENER);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		open_socket(ctx, cookie, tcp, PASSIVE);
		break;
	}
	return 1;
}

static __always_inline bool is_looked_at(struct cgroup *cgroup)
{
	struct cgroup_subsys_state *above;

	if (!looked_at_cgroup)
		return true;
	for (int level = 0; level < DEEPEST && cgroup; level++) {
		if (cgroup->kn->id == looked_at_cgroup)
			return true;
		above = cgroup->self.parent;
		if (!above)
			break;
		cgroup = above->cgroup;
	}
	return false;
}

/* Each TCP socket of a namespace, under its lock: entries get the numbers of now, sockets without one become entries.
 */
SEC("iter/tcp")
int look(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct connection *connection;
	struct tcp_sock *tcp;
	__u64 cookie;
	int flags;
	enum role role;

	if (!common)
		return 0;
	tcp = bpf_skc_to_tcp_sock(common);
	if (!tcp || !is_looked_at(tcp->inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup))
		return 0;
	cookie = bpf_get_socket_cookie(tcp);
	connection = bpf_map_lookup_elem(&connections, &cookie);
	if (connection) {
		read_ends(connection, tcp);
		read_numbers(connection, tcp);
		return 0;
	}
	flags = tcp->bpf_sock_ops_cb_flags | CALLBACKS;
	role = tcp->inet_conn.icsk_inet.sk.__sk_common.skc_state == LISTEN ? LISTENER : ADOPTED;
	if (bpf_setsockopt(tcp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags)) ||
	    !open_entry(cookie, tcp, role))
		count(NOT_TRACKED);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
