/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * analyze_tcp: what happens to TCP connections: time in each state, handshakes, retransmits, resets, windows of zero.
 *
 * It listens to the kernel's own tracepoints of TCP, for all sockets of the namespaces that it is told, keeps a record
 * of each connection, and sends what happens as events: enough for a timeline. bpf/analyze_tcp.py reads them, and says
 * what is not as it should be, with the evidence.
 *
 * DECISIONS. Nothing is changed. Which tracepoint becomes which event:
 *   inet_sock_set_state       STATE, with the states before and now. From SYN_SENT or SYN_RECV to ESTABLISHED it is
 *                             a handshake that is done. To CLOSE: `closed` gets the record, and the entry goes
 *   tcp_retransmit_skb        RETRANSMIT, number: how many within this second
 *   tcp_retransmit_synack     RETRANSMIT_SYNACK, cookie 0, number: of this handshake: the client does not answer
 *   tcp_send_reset            RESET_SENT, and why. Cookie 0: there is no socket, nobody listens
 *   tcp_receive_reset         RESET_RECEIVED, and in which state
 *   tcp_probe (each segment that comes in on an established connection)
 *     its window is 0         ZERO_WINDOW once: the peer has no room. WINDOW_OPEN when it has, number: ms
 *     ours was 0              the same, with `ours` 1: our program does not read
 *     sample_every_ms passed  SAMPLE, number: srtt in us, and the congestion window
 *   no room in `connections`  happens all the same as an event, in no record. totals: NOT_TRACKED
 *   no room in a ring buffer  totals: EVENT_LOST
 * A connection that existed before gets its record, of unknown role, with the first thing that happens to it.
 *
 * KNOBS (const volatile, set before load)
 *   namespaces {}       up to 8 inode numbers of network namespaces (st_ino of /proc/PID/ns/net). All zero: all there
 *                       are. The kernel's tracepoints are for the whole machine, so every program looks here first
 *   sample_every_ms 0   0: no SAMPLE
 *
 * MAPS
 *   connections   socket cookie -> struct connection: those that live; 65536
 *   events        ring buffer of struct event, in the order in which they happened
 *   closed        ring buffer of struct closed: the records of those that closed
 *   surveyed      ring buffer of struct surveyed: listeners and half-open handshakes, each time `survey` is read
 *   totals        by enum happening, exact also where events were lost; per CPU
 *
 * SEVERAL CPUs: tracepoints of one socket come under its lock; resets without a socket touch no record.
 *
 * KERNEL 5.15 or later with BTF. Since 6.10 the kernel tells of resets where nobody listens (before, RESET_SENT has a
 * socket always), and why a reset was sent: what close() has for reasons since 6.12. Tried on 6.1, 6.12, 6.18.
 *
 * NOT HANDLED
 *   TIME_WAIT: the kernel has no socket for it any more, a record ends as it begins. SYN_RECV of a server: the kernel
 *   has no socket before the handshake is done, so `survey` shows these. Windows in other states than ESTABLISHED. A
 *   segment that is lost and never sent again. SYNs answered by SYN cookies leave no trace but the kernel's counters,
 *   which bpf/analyze_tcp.py reads.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include <lab/address.h>
#include <lab/tcp_sock.h>
#include <lab/tcp_state.h>

#define CONNECTIONS   65536
#define NAMESPACES    8
#define FAMILY_IP4    2
#define NS_PER_MS     1000000ULL
#define NS_PER_SECOND 1000000000ULL

const volatile __u32 namespaces[NAMESPACES] = {};
const volatile __u32 sample_every_ms = 0;

enum role {
	UNKNOWN,
	ACTIVE,
	PASSIVE,
};

enum happening {
	STATE,
	RETRANSMIT,
	RETRANSMIT_SYNACK,
	RESET_SENT,
	RESET_RECEIVED,
	ZERO_WINDOW,
	WINDOW_OPEN,
	SAMPLE,
	NOT_TRACKED,
	EVENT_LOST,
	HAPPENINGS,
};

/* Why a reset was sent, of the kernel's reasons those that tell something. */
enum why {
	NO_REASON,
	NO_SOCKET,   /* nobody listens, or the connection is gone */
	UNREAD_DATA, /* close() with data that was not read, or data after it */
	ABANDONED,   /* SO_LINGER 0, disconnect, ss --kill */
	KEEPALIVE,   /* the peer did not answer */
	BAD_SEGMENT, /* acknowledges what was not sent, bad flags, a SYN where none belongs */
	OTHER_REASON,
};

/* The kernel's, by name: their numbers differ between versions. */
enum sk_rst_reason {
	SK_RST_REASON_NO_SOCKET = 1,
	SK_RST_REASON_TCP_INVALID_ACK_SEQUENCE,
	SK_RST_REASON_TCP_ACK_UNSENT_DATA,
	SK_RST_REASON_TCP_FLAGS,
	SK_RST_REASON_TCP_OLD_ACK,
	SK_RST_REASON_TCP_ABORT_ON_DATA,
	SK_RST_REASON_INVALID_SYN,
	SK_RST_REASON_TCP_ABORT_ON_CLOSE,
	SK_RST_REASON_TCP_ABORT_ON_LINGER,
	SK_RST_REASON_TCP_STATE,
	SK_RST_REASON_TCP_KEEPALIVE_TIMEOUT,
	SK_RST_REASON_TCP_DISCONNECT_WITH_DATA,
	SK_RST_REASON_NOT_SPECIFIED,
};

struct ends {
	struct in6_addr local; /* IPv4 as ::ffff:a.b.c.d */
	struct in6_addr remote;
	__be16 local_port;
	__be16 remote_port;
	__u32 netns; /* inode */
};

struct connection {
	struct ends ends;
	enum role role : 8;
	enum tcp_state state : 8;
	__u16 reserved;
	__u32 error;	 /* errno at the end */
	__u64 opened_ns; /* CLOCK_MONOTONIC; of an unknown role: when it was first seen */
	__u64 since_ns;	 /* in this state */
	__u64 spent_ns[TCP_STATES];
	__u64 handshake_ns;	/* 0: not seen. PASSIVE: from SYN+ACK to ACK, 0 when that was retransmitted */
	__u64 second_ns;	/* the second in which retransmits are counted began here */
	__u64 zero_since_ns[2]; /* 0: there is room. By whose window: the peer's, ours */
	__u64 zero_ns[2];	/* all such times before */
	__u64 sampled_ns;
	__u32 zero_times[2];
	__u32 retransmits;
	__u32 in_second;
	__u32 worst_second;
	__u32 srtt_us;
	__u32 segments_out;
	__u32 segments_in;
};

struct event {
	__u64 at_ns;
	__u64 cookie; /* 0: no socket */
	struct ends ends;
	enum happening what;
	enum tcp_state before : 8;
	enum tcp_state state : 8;
	enum why why : 8;
	__u8 ours;
	__u32 number; /* which one; ms; srtt in us */
	__u32 window; /* congestion window, segments */
};
const struct event *event_for_btf __attribute__((unused));

struct closed {
	__u64 at_ns;
	__u64 cookie;
	struct connection connection;
};
const struct closed *closed_for_btf __attribute__((unused));

enum found {
	LISTENER,
	HALF_OPEN,
};

struct surveyed {
	struct ends ends;
	enum found found;
	__u32 retransmits; /* of the SYN+ACK */
	__u32 handshakes;  /* of a listener: not done */
	__u32 waiting;	   /* for accept() */
	__u32 most;	   /* that may wait */
	__u32 reserved;
};
const struct surveyed *surveyed_for_btf __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CONNECTIONS);
	__type(key, __u64);
	__type(value, struct connection);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} closed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} surveyed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HAPPENINGS);
	__type(key, enum happening);
	__type(value, __u64);
} totals SEC(".maps");

/* ---- Whose it is ---- */

/* The knobs are constants to the verifier: with none set nothing of this is left. */
static __always_inline bool is_watched(__u32 netns)
{
	if (!namespaces[0])
		return true;
#pragma unroll
	for (int place = 0; place < NAMESPACES; place++)
		if (namespaces[place] && namespaces[place] == netns)
			return true;
	return false;
}

static __always_inline bool is_ours(const struct sock_common *common)
{
	return is_watched(common->skc_net.net->ns.inum);
}

static __always_inline void read_ends(struct ends *ends, const struct sock_common *common)
{
	ends->local_port = bpf_htons(common->skc_num);
	ends->remote_port = common->skc_dport;
	ends->netns = common->skc_net.net->ns.inum;
	if (common->skc_family == FAMILY_IP4) {
		ends->local = lab_mapped(common->skc_rcv_saddr);
		ends->remote = lab_mapped(common->skc_daddr);
	} else {
		ends->local = common->skc_v6_rcv_saddr;
		ends->remote = common->skc_v6_daddr;
	}
}

/* ---- Telling ---- */

/* Atomic, although per CPU: a system call's tracepoint may be interrupted by a packet's. */
static __always_inline void count(enum happening what)
{
	__u64 *times = bpf_map_lookup_elem(&totals, &what);

	if (times)
		__sync_fetch_and_add(times, 1);
}

/* Fills in when and whose, of what is said in `event`, and sends it. */
static __always_inline void tell(__u64 cookie, const struct ends *ends, __u64 now_ns, struct event event)
{
	struct event *sent;

	count(event.what);
	sent = bpf_ringbuf_reserve(&events, sizeof(*sent), 0);
	if (!sent) {
		count(EVENT_LOST);
		return;
	}
	sent->at_ns = now_ns;
	sent->cookie = cookie;
	sent->ends = *ends;
	sent->what = event.what;
	sent->before = event.before;
	sent->state = event.state;
	sent->why = event.why;
	sent->ours = event.ours;
	sent->number = event.number;
	sent->window = event.window;
	bpf_ringbuf_submit(sent, 0);
}

static __noinline struct connection *new_record(__u64 cookie, const struct ends *ends, enum role role,
						enum tcp_state state, __u64 now_ns)
{
	struct connection connection = {}, *made;

	if (!ends)
		return NULL;
	connection.ends = *ends;
	connection.role = role;
	connection.state = state;
	connection.opened_ns = now_ns;
	connection.since_ns = now_ns;
	bpf_map_update_elem(&connections, &cookie, &connection, BPF_ANY);
	made = bpf_map_lookup_elem(&connections, &cookie);
	if (!made)
		count(NOT_TRACKED);
	return made;
}

/* The record of a socket, which may have existed before. */
static __always_inline struct connection *record_of(__u64 cookie, const struct ends *ends, enum tcp_state state,
						    __u64 now_ns)
{
	struct connection *known = bpf_map_lookup_elem(&connections, &cookie);

	return known ? known : new_record(cookie, ends, UNKNOWN, state, now_ns);
}

static __always_inline void read_numbers(struct connection *connection, const void *sk)
{
	const struct tcp_sock *tcp = bpf_skc_to_tcp_sock((void *)sk);

	if (!tcp)
		return;
	connection->srtt_us = tcp->srtt_us >> 3;
	connection->segments_out = tcp->segs_out;
	connection->segments_in = tcp->segs_in;
}

/* ---- States ---- */

static __always_inline void leave_state(struct connection *connection, const struct sock *sk, __u32 from, __u32 to,
					__u64 now_ns)
{
	/* clang forgets that it is compared, does it again, and the verifier sees it. */
	asm volatile("" : "+r"(from));
	if (from < TCP_STATES)
		connection->spent_ns[from] += now_ns - connection->since_ns;
	connection->state = to;
	connection->since_ns = now_ns;
	read_numbers(connection, sk);
}

/* A socket that closes has given its port back by now: the record knows it. */
static __always_inline void close(__u64 cookie, const struct sock *sk, __u32 from, __u64 now_ns)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &cookie);
	struct closed *last;

	if (!connection)
		return;
	tell(cookie, &connection->ends, now_ns, (struct event){ .what = STATE, .before = from, .state = CLOSE });
	leave_state(connection, sk, from, CLOSE, now_ns);
	connection->error = sk->sk_err;
#pragma unroll
	for (int whose = 0; whose < 2; whose++)
		if (connection->zero_since_ns[whose])
			connection->zero_ns[whose] += now_ns - connection->zero_since_ns[whose];
	last = bpf_ringbuf_reserve(&closed, sizeof(*last), 0);
	if (last) {
		last->at_ns = now_ns;
		last->cookie = cookie;
		last->connection = *connection;
		bpf_ringbuf_submit(last, 0);
	} else {
		count(EVENT_LOST);
	}
	bpf_map_delete_elem(&connections, &cookie);
}

static __always_inline enum role role_of(__u32 from, __u32 to)
{
	if (from == CLOSE && to == SYN_SENT)
		return ACTIVE;
	return from == SYN_RECV && to == ESTABLISHED ? PASSIVE : UNKNOWN;
}

static __always_inline void change(__u64 cookie, const struct sock *sk, __u32 from, __u32 to, __u64 now_ns)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &cookie);
	struct ends ends = {};

	read_ends(&ends, &sk->__sk_common);
	tell(cookie, &ends, now_ns, (struct event){ .what = STATE, .before = from, .state = to });
	if (!connection)
		connection = new_record(cookie, &ends, role_of(from, to), from, now_ns);
	if (!connection)
		return;
	leave_state(connection, sk, from, to, now_ns);
	connection->ends = ends; /* the local port is chosen after CLOSE -> SYN_SENT */
	if (to != ESTABLISHED)
		return;
	if (connection->role == ACTIVE)
		connection->handshake_ns = now_ns - connection->opened_ns;
	else if (connection->role == PASSIVE)
		connection->handshake_ns = connection->srtt_us * 1000ULL;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, const struct sock *sk, int from, int to)
{
	__u64 cookie;

	if (sk->sk_protocol != IPPROTO_TCP || !is_ours(&sk->__sk_common))
		return 0;
	/* From LISTEN: its child, which still has its listener's cookie and no peer. It comes when its handshake is
	 * done. */
	if (from == LISTEN || to == LISTEN)
		return 0;
	cookie = bpf_get_socket_cookie((void *)sk);
	if (to == CLOSE)
		close(cookie, sk, from, bpf_ktime_get_ns());
	else
		change(cookie, sk, from, to, bpf_ktime_get_ns());
	return 0;
}

/* ---- Retransmits ---- */

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(retransmit, const struct sock *sk)
{
	struct connection *connection;
	__u32 state, in_second = 1;
	struct ends ends = {};
	__u64 cookie, now_ns;

	if (!is_ours(&sk->__sk_common))
		return 0;
	cookie = bpf_get_socket_cookie((void *)sk);
	now_ns = bpf_ktime_get_ns();
	state = sk->__sk_common.skc_state;
	read_ends(&ends, &sk->__sk_common);
	connection = record_of(cookie, &ends, state, now_ns);
	if (connection) {
		if (now_ns - connection->second_ns > NS_PER_SECOND) {
			connection->second_ns = now_ns;
			connection->in_second = 0;
		}
		in_second = ++connection->in_second;
		if (in_second > connection->worst_second)
			connection->worst_second = in_second;
		connection->retransmits++;
		read_numbers(connection, sk);
	}
	tell(cookie, &ends, now_ns, (struct event){ .what = RETRANSMIT, .state = state, .number = in_second });
	return 0;
}

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(retransmit_synack, const struct sock *sk, const struct request_sock *request)
{
	struct ends ends = {};

	if (!is_ours(&sk->__sk_common))
		return 0;
	read_ends(&ends, &request->__req_common);
	tell(0, &ends, bpf_ktime_get_ns(), (struct event){ .what = RETRANSMIT_SYNACK, .number = request->num_retrans });
	return 0;
}

/* ---- Resets ---- */

#define IS(reason, name)                                                                                               \
	(bpf_core_enum_value_exists(enum sk_rst_reason, SK_RST_REASON_##name) &&                                       \
	 (reason) == bpf_core_enum_value(enum sk_rst_reason, SK_RST_REASON_##name))

static __always_inline enum why why_of(__u64 reason)
{
	if (IS(reason, NOT_SPECIFIED))
		return NO_REASON;
	if (IS(reason, NO_SOCKET))
		return NO_SOCKET;
	if (IS(reason, TCP_ABORT_ON_CLOSE) || IS(reason, TCP_ABORT_ON_DATA))
		return UNREAD_DATA;
	if (IS(reason, TCP_ABORT_ON_LINGER) || IS(reason, TCP_DISCONNECT_WITH_DATA) || IS(reason, TCP_STATE))
		return ABANDONED;
	if (IS(reason, TCP_KEEPALIVE_TIMEOUT))
		return KEEPALIVE;
	if (IS(reason, TCP_INVALID_ACK_SEQUENCE) || IS(reason, TCP_ACK_UNSENT_DATA) || IS(reason, TCP_FLAGS) ||
	    IS(reason, TCP_OLD_ACK) || IS(reason, INVALID_SYN))
		return BAD_SEGMENT;
	return OTHER_REASON;
}

/* The ends of the segment that is answered by a reset, seen from here. */
static __always_inline bool read_segment_ends(struct ends *ends, const struct sk_buff *skb)
{
	const unsigned char *head = skb->head;
	struct ipv6hdr ip6 = {};
	struct iphdr ip4 = {};
	__be16 ports[2] = {};

	if (bpf_probe_read_kernel(&ip4, sizeof(ip4), head + skb->network_header) ||
	    bpf_probe_read_kernel(ports, sizeof(ports), head + skb->transport_header))
		return false;
	ends->remote_port = ports[0];
	ends->local_port = ports[1];
	if (ip4.version == 4) {
		ends->remote = lab_mapped(ip4.saddr);
		ends->local = lab_mapped(ip4.daddr);
		return true;
	}
	if (bpf_probe_read_kernel(&ip6, sizeof(ip6), head + skb->network_header))
		return false;
	ends->remote = ip6.saddr;
	ends->local = ip6.daddr;
	return true;
}

/* `sk` is NULL where nobody listens, `skb` is NULL where nothing is answered: the reset was our own idea. */
SEC("tp_btf/tcp_send_reset")
int BPF_PROG(send_reset, const struct sock *sk, const struct sk_buff *skb)
{
	struct ends ends = {};
	__u32 state = NO_STATE, why = NO_REASON;
	__u64 cookie = 0;

	if (sk) {
		if (!is_ours(&sk->__sk_common))
			return 0;
		state = sk->__sk_common.skc_state;
		cookie = state == LISTEN ? 0 : bpf_get_socket_cookie((void *)sk);
		read_ends(&ends, &sk->__sk_common);
	}
	if (skb) {
		__u32 netns = skb->dev->nd_net.net->ns.inum;

		if (!is_watched(netns) || !read_segment_ends(&ends, skb))
			return 0;
		ends.netns = netns;
	}
	if (bpf_core_type_exists(enum sk_rst_reason))
		why = why_of(ctx[2]);
	tell(cookie, &ends, bpf_ktime_get_ns(), (struct event){ .what = RESET_SENT, .state = state, .why = why });
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(receive_reset, struct sock *sk)
{
	struct connection *connection;
	struct ends ends = {};
	__u64 cookie;

	if (!is_ours(&sk->__sk_common))
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	read_ends(&ends, &sk->__sk_common);
	connection = bpf_map_lookup_elem(&connections, &cookie);
	if (connection)
		connection->ends = ends; /* of a refused connection the local port was not known before */
	tell(cookie, &ends, bpf_ktime_get_ns(),
	     (struct event){ .what = RESET_RECEIVED, .state = sk->__sk_common.skc_state });
	return 0;
}

/* ---- Windows ---- */

static __always_inline bool has_zero_window(const struct sk_buff *skb)
{
	__be16 window = 1;

	bpf_probe_read_kernel(&window, sizeof(window),
			      skb->head + skb->transport_header + __builtin_offsetof(struct tcphdr, window));
	return !window;
}

/* A window that closes or opens; whose 0: the peer's, 1: ours. */
static __always_inline void turn(struct connection *connection, __u64 cookie, __u32 whose, bool is_zero)
{
	__u64 now_ns, zero_ns;

	if (is_zero == !!connection->zero_since_ns[whose])
		return;
	now_ns = bpf_ktime_get_ns();
	if (is_zero) {
		connection->zero_since_ns[whose] = now_ns;
		connection->zero_times[whose]++;
		tell(cookie, &connection->ends, now_ns, (struct event){ .what = ZERO_WINDOW, .ours = whose });
		return;
	}
	zero_ns = now_ns - connection->zero_since_ns[whose];
	connection->zero_ns[whose] += zero_ns;
	connection->zero_since_ns[whose] = 0;
	tell(cookie, &connection->ends, now_ns,
	     (struct event){ .what = WINDOW_OPEN, .ours = whose, .number = zero_ns / NS_PER_MS });
}

/* Each segment that comes in: one lookup, and no clock unless something is told. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(probe, struct sock *sk, const struct sk_buff *skb)
{
	struct connection *connection;
	const struct tcp_sock *tcp;
	struct ends ends = {};
	__u64 cookie, now_ns;

	if (!is_ours(&sk->__sk_common))
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	connection = bpf_map_lookup_elem(&connections, &cookie);
	if (!connection) {
		read_ends(&ends, &sk->__sk_common);
		connection = new_record(cookie, &ends, UNKNOWN, ESTABLISHED, bpf_ktime_get_ns());
		if (!connection)
			return 0;
	}
	turn(connection, cookie, 0, has_zero_window(skb));
	turn(connection, cookie, 1, !tcp->rcv_wnd);
	connection->srtt_us = tcp->srtt_us >> 3;
	connection->segments_in = tcp->segs_in;
	connection->segments_out = tcp->segs_out;
	if (sample_every_ms) {
		now_ns = bpf_ktime_get_ns();
		if (now_ns - connection->sampled_ns >= sample_every_ms * NS_PER_MS) {
			connection->sampled_ns = now_ns;
			tell(cookie, &connection->ends, now_ns,
			     (struct event){ .what = SAMPLE, .number = connection->srtt_us, .window = tcp->snd_cwnd });
		}
	}
	return 0;
}

/* ---- What waits, when user space asks ---- */

struct bpf_iter__tcp {
	__u64 meta;
	struct sock_common *sk_common;
	__u32 uid;
};

SEC("iter/tcp")
int survey(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct surveyed *found;
	struct tcp_sock *tcp;
	__u32 state;

	if (!common)
		return 0;
	state = common->skc_state;
	if ((state != LISTEN && state != NEW_SYN_RECV) || !is_ours(common))
		return 0;
	found = bpf_ringbuf_reserve(&surveyed, sizeof(*found), 0);
	if (!found) {
		count(EVENT_LOST);
		return 0;
	}
	__builtin_memset(found, 0, sizeof(*found));
	read_ends(&found->ends, common);
	if (state == LISTEN) {
		found->found = LISTENER;
		tcp = bpf_skc_to_tcp_sock(common);
		if (tcp) {
			found->handshakes = tcp->inet_conn.icsk_accept_queue.qlen.counter;
			found->waiting = tcp->inet_conn.icsk_inet.sk.sk_ack_backlog;
			found->most = tcp->inet_conn.icsk_inet.sk.sk_max_ack_backlog;
		}
	} else {
		found->found = HALF_OPEN;
		found->retransmits = BPF_CORE_READ((struct request_sock *)common, num_retrans);
	}
	bpf_ringbuf_submit(found, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
