/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * log_tcp_connect: who opened a TCP connection to where, how long it took, and why it failed if it did.
 *
 * One event a connection, when its opening has ended, one way or the other. BCC's C; bpf/log_tcp_connect.py loads it.
 *
 * ENDINGS
 *   CONNECTED      the handshake is complete; `took_ns` is from the SYN to its answer
 *   RESET          an RST came: nobody listens there, or a firewall says so. error ECONNREFUSED
 *   TIMEOUT        no answer to any SYN. error ETIMEDOUT, or what ICMP had said meanwhile, once the kernel gives up
 *   UNREACHABLE    ICMP, or a neighbour that does not answer, ended it. error EHOSTUNREACH, ENETUNREACH, ...
 *   REFUSED_HERE   this machine said no, and nothing was sent: no route (ENETUNREACH), no free port (EADDRNOTAVAIL), a
 *                  policy (EPERM, EACCES), an address of no sense (EINVAL); or it was ended by hand (ECONNABORTED)
 *   GIVEN_UP       the process closed the socket, or ended, before any answer came: most programs' own timeouts
 *   `syns` counts what was sent until then; above 1 the first were lost, or nobody answered.
 *
 * WHO is asked when the SYN is sent, as that happens in the process that connects. The answer comes in a softirq, and
 * the process that happens to run then has nothing to do with it. Non-blocking connects end like all others; a second
 * connect() on the same socket, which only asks how it went, is no second event. Of io_uring the worker is told, of a
 * kernel's own connection (NFS) its thread.
 *
 * NOTHING IS LOST IN SILENCE
 *   totals         by enum total. Each that ended is counted under its ending, and was sent as an event but for
 *                  EVENT_LOST, for which the ring buffer had no room. STARTED: those that came to SYN_SENT. NO_ROOM:
 *                  more connections under way than the tables hold; they have no event
 *   program.misses   the kernel skips a tracer that is interrupted by itself on one CPU, and counts that
 *
 * HOOKS
 *   raw_tp/inet_sock_set_state        SYN_SENT begins one, the next state ends it
 *   raw_tp/tcp_receive_reset          marks it as reset
 *   raw_tp/tcp_retransmit_skb         counts its SYNs
 *   tracepoint/syscalls/sys_enter_connect, sys_exit_connect      those that end before a SYN, and their errors
 *   A raw tracepoint is skipped only where it interrupts itself. A plain one (connect's) also where it interrupts
 *   another plain one, or the change of a BPF map, on that CPU: then a refusal is missing, or told as GIVEN_UP.
 *
 * MACROS
 *   PID, UID, PORT                    only connections of this process, of this user, to this port
 *   CONNECTIONS 65536                 under way at once
 *   RING_PAGES 1024                   of the ring buffer, a power of two: 40,000 events
 *   NO_SYSCALLS                       without the hooks on connect(), which cost each system call of the machine some
 *                                     40 ns: what is REFUSED_HERE is not seen then, or seen as GIVEN_UP
 *   EVERY_CALL                        raw_tp/sys_enter and sys_exit instead: skipped by nothing, at some 170 ns a call,
 *                                     all over the machine. Also for kernels without CONFIG_FTRACE_SYSCALLS
 *   SOCK_ERR, TASK_FILES, ...         where the kernel's structures have what is read, as its BTF says
 *
 * KERNEL 5.8 or later (ring buffer) with BTF; tried on 6.18.
 *
 * NOT HANDLED
 *   What is under way when it is attached: only the process that began it could have been asked. UDP, SCTP; of MPTCP
 *   the subflows are told. REFUSED_HERE of io_uring, of sendmsg(MSG_FASTOPEN) and of 32-bit programs on a 64-bit
 *   kernel: they call no connect() that is hooked here. Incoming connections (no SYN_SENT).
 */
#include <linux/errno.h>
#include <linux/in.h>
#ifdef EVERY_CALL
#include <asm/unistd.h>
#endif

#ifndef CONNECTIONS
#define CONNECTIONS 65536
#endif
#ifndef RING_PAGES
#define RING_PAGES 1024
#endif
#define AF_INET	       2
#define AF_INET6       10
#define SS_UNCONNECTED 1   /* enum socket_state: linux/net.h */
#define RESTARTS       512 /* ERESTARTSYS and its kin: a signal came, and the connection is still under way */

enum total {
	CONNECTED,
	RESET,
	TIMEOUT,
	UNREACHABLE,
	REFUSED_HERE,
	GIVEN_UP,
	STARTED,
	EVENT_LOST,
	NO_ROOM,
	TOTALS,
};

/* Addresses are 16 bytes in wire order, IPv4 mapped (::ffff:10.0.0.1). */
struct event {
	u64 at_ns; /* CLOCK_MONOTONIC, when it ended */
	u64 took_ns;
	u32 pid;
	u32 thread; /* its id; the process's own for the first */
	u32 uid;
	u32 netns; /* inode of the network namespace */
	u32 ending;
	int error; /* errno; 0 for CONNECTED and GIVEN_UP */
	u32 syns;
	u8 source[16];
	u8 dest[16];
	__be16 source_port;
	__be16 dest_port;
	char comm[16];
};

struct connecting {
	u64 since_ns;
	u32 pid;
	u32 thread;
	u32 uid;
	u16 syns;
	u16 was_reset;
	char comm[16];
};

/* A thread within connect(), on a TCP socket that was not connecting yet. */
struct call {
	u64 since_ns;
	u64 sock;
	u64 address; /* struct sockaddr * in user space */
	u64 is_under_way;
};

BPF_HASH(connecting, u64, struct connecting, CONNECTIONS); /* struct sock * */
BPF_HASH(calls, u64, struct call, 8192);		   /* pid_tgid */
BPF_PERCPU_ARRAY(totals, u64, TOTALS);
BPF_RINGBUF_OUTPUT(events, RING_PAGES);

/* Atomic: a softirq on the same CPU may come between. */
static __always_inline void count(u32 total)
{
	u64 *value = totals.lookup(&total);

	if (value)
		__sync_fetch_and_add(value, 1);
}

#define READ(type, address)                                                                                            \
	({                                                                                                             \
		type value = 0;                                                                                        \
		bpf_probe_read_kernel(&value, sizeof(value), (void *)(address));                                       \
		value;                                                                                                 \
	})

static __always_inline int is_wanted(u32 pid, u32 uid)
{
#ifdef PID
	if (pid != PID)
		return 0;
#endif
#ifdef UID
	if (uid != UID)
		return 0;
#endif
	return 1;
}

static __always_inline int is_wanted_port(__be16 port)
{
#ifdef PORT
	return port == htons(PORT);
#else
	return 1;
#endif
}

static __always_inline void map_ipv4(u8 *address)
{
	address[10] = 0xff;
	address[11] = 0xff;
}

static __always_inline void read_ends(struct event *event, u64 sock)
{
	if (READ(u16, sock + SOCK_FAMILY) == AF_INET6) {
		bpf_probe_read_kernel(event->source, 16, (void *)sock + SOCK_SOURCE6);
		bpf_probe_read_kernel(event->dest, 16, (void *)sock + SOCK_DEST6);
	} else {
		map_ipv4(event->source);
		map_ipv4(event->dest);
		bpf_probe_read_kernel(event->source + 12, 4, (void *)sock + SOCK_SOURCE4);
		bpf_probe_read_kernel(event->dest + 12, 4, (void *)sock + SOCK_DEST4);
	}
	event->source_port = READ(__be16, sock + SOCK_SOURCE_PORT);
	event->dest_port = READ(__be16, sock + SOCK_DEST_PORT);
	event->netns = READ(u32, READ(u64, sock + SOCK_NETNS) + NETNS_INODE);
}

static __always_inline void tell(struct event *event)
{
	count(event->ending);
	if (events.ringbuf_output(event, sizeof(*event), 0))
		count(EVENT_LOST);
}

/* In the process that connects, with the destination set and the source port perhaps not yet. */
static __always_inline void begin(u64 sock)
{
	struct connecting made = { .since_ns = bpf_ktime_get_ns(), .syns = 1 };
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&thread);

	made.pid = thread >> 32;
	made.thread = thread;
	made.uid = bpf_get_current_uid_gid();
	if (!is_wanted(made.pid, made.uid) || !is_wanted_port(READ(__be16, sock + SOCK_DEST_PORT)))
		return;
	if (call && call->sock == sock)
		call->is_under_way = 1;
	bpf_get_current_comm(made.comm, sizeof(made.comm));
	count(STARTED);
	if (connecting.update(&sock, &made))
		count(NO_ROOM);
}

/* connect() takes it back: what kept it from sending (no free port) is not on the socket, but in what it returns. */
static __always_inline int is_taken_back(u64 sock)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&thread);

	if (!call || call->sock != sock)
		return 0;
	call->is_under_way = 0;
	return 1;
}

static __always_inline u32 ending_of(const struct connecting *made, int state, int error)
{
	if (state == BPF_TCP_ESTABLISHED)
		return CONNECTED;
	if (made->was_reset)
		return RESET;
	if (error == ETIMEDOUT)
		return TIMEOUT;
	if (error == ECONNABORTED)
		return REFUSED_HERE;
	return error ? UNREACHABLE : GIVEN_UP;
}

static __always_inline void end(u64 sock, int state)
{
	struct connecting *made = connecting.lookup(&sock);
	struct event event = { .at_ns = bpf_ktime_get_ns() };

	if (!made)
		return;
	if (state != BPF_TCP_ESTABLISHED)
		event.error = READ(int, sock + SOCK_ERR);
	event.ending = ending_of(made, state, event.error);
	if (event.ending == GIVEN_UP && is_taken_back(sock)) {
		connecting.delete(&sock);
		return;
	}
	event.took_ns = event.at_ns - made->since_ns;
	event.pid = made->pid;
	event.thread = made->thread;
	event.uid = made->uid;
	event.syns = made->syns;
	__builtin_memcpy(event.comm, made->comm, sizeof(event.comm));
	connecting.delete(&sock);
	read_ends(&event, sock);
	tell(&event);
}

/* (const struct sock *sock, int before, int after) */
RAW_TRACEPOINT_PROBE(inet_sock_set_state)
{
	u64 sock = ctx->args[0];
	int before = ctx->args[1], after = ctx->args[2];

	if (READ(u16, sock + SOCK_PROTOCOL) != IPPROTO_TCP)
		return 0;
	if (after == BPF_TCP_SYN_SENT)
		begin(sock);
	else if (after != BPF_TCP_SYN_RECV && (before == BPF_TCP_SYN_SENT || before == BPF_TCP_SYN_RECV))
		end(sock, after); /* SYN_RECV: the other end has opened at the same time */
	return 0;
}

/* (const struct sock *sock, ...): comes before the state that it brings about */
RAW_TRACEPOINT_PROBE(tcp_receive_reset)
{
	u64 sock = ctx->args[0];
	struct connecting *made = connecting.lookup(&sock);

	if (made)
		made->was_reset = 1;
	return 0;
}

/* (const struct sock *sock, const struct sk_buff *skb, ...) */
RAW_TRACEPOINT_PROBE(tcp_retransmit_skb)
{
	u64 sock = ctx->args[0];
	struct connecting *made = connecting.lookup(&sock);

	if (made)
		made->syns++;
	return 0;
}

#ifndef NO_SYSCALLS
/* struct socket of a descriptor; of what is no socket, whatever lies there. Reading it is safe, and it has no TCP. */
static __always_inline u64 socket_of(u32 descriptor)
{
	u64 files = READ(u64, bpf_get_current_task() + TASK_FILES);
	u64 table = READ(u64, files + FILES_TABLE);
	u64 file = READ(u64, READ(u64, table + TABLE_FILES) + descriptor * sizeof(u64));

	return READ(u64, file + FILE_PRIVATE);
}

static __always_inline int enter_connect(u32 descriptor, u64 address)
{
	u64 thread = bpf_get_current_pid_tgid(), opened;
	struct call call = { .address = address };

	if (!is_wanted(thread >> 32, bpf_get_current_uid_gid()))
		return 0;
	opened = socket_of(descriptor);
	if (READ(u32, opened + SOCKET_STATE) != SS_UNCONNECTED)
		return 0;
	call.sock = READ(u64, opened + SOCKET_SOCK);
	if (READ(u16, call.sock + SOCK_PROTOCOL) != IPPROTO_TCP)
		return 0;
	call.since_ns = bpf_ktime_get_ns();
	if (calls.update(&thread, &call))
		count(NO_ROOM);
	return 0;
}

/* The kernel has read the address by now, so that it is in memory. */
static __always_inline void read_dest(struct event *event, u64 address)
{
	struct {
		u16 family;
		__be16 port;
		u32 ipv4_or_flow;
		u8 ipv6[16];
	} named = {};

	bpf_probe_read_user(&named, 16, (void *)address);
	event->dest_port = named.port;
	if (named.family == AF_INET6) {
		bpf_probe_read_user(event->dest, 16, (void *)address + 8);
	} else {
		map_ipv4(event->source);
		map_ipv4(event->dest);
		__builtin_memcpy(event->dest + 12, &named.ipv4_or_flow, 4);
	}
}

static __always_inline int exit_connect(long result)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&thread);
	struct event event = { .at_ns = bpf_ktime_get_ns(), .ending = REFUSED_HERE, .error = -result };

	if (!call)
		return 0;
	if (call->is_under_way || result >= 0 || result == -EINPROGRESS || result <= -RESTARTS)
		goto done;
	event.took_ns = event.at_ns - call->since_ns;
	event.pid = thread >> 32;
	event.thread = thread;
	event.uid = bpf_get_current_uid_gid();
	event.netns = READ(u32, READ(u64, call->sock + SOCK_NETNS) + NETNS_INODE);
	bpf_get_current_comm(event.comm, sizeof(event.comm));
	read_dest(&event, call->address);
	if (is_wanted_port(event.dest_port))
		tell(&event);
done:
	calls.delete(&thread);
	return 0;
}
#endif

#ifdef EVERY_CALL
/* (struct pt_regs *registers, long number) */
RAW_TRACEPOINT_PROBE(sys_enter)
{
	u64 registers = ctx->args[0];

	if (ctx->args[1] != __NR_connect)
		return 0;
	return enter_connect(READ(u32, registers + REGISTER_0), READ(u64, registers + REGISTER_1));
}

/* (struct pt_regs *registers, long result) */
RAW_TRACEPOINT_PROBE(sys_exit)
{
	if (READ(u32, ctx->args[0] + REGISTER_NUMBER) != __NR_connect)
		return 0;
	return exit_connect(ctx->args[1]);
}
#elif !defined(NO_SYSCALLS)
TRACEPOINT_PROBE(syscalls, sys_enter_connect)
{
	return enter_connect(args->fd, (u64)args->uservaddr);
}

TRACEPOINT_PROBE(syscalls, sys_exit_connect)
{
	return exit_connect(args->ret);
}
#endif
