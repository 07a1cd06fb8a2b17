/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * trace_syscall: which processes make which system calls, how often, how long they take, and with which errors; and
 * what the calls of the network are asked for. BCC's C; bpf/trace_syscall.py loads it.
 *
 * A call is counted when it returns: by process and number, with its errors and a histogram of its time. Of socket,
 * bind, listen, connect, accept, accept4, sendto, recvfrom, sendmsg, recvmsg and close (of a socket) each is an event
 * besides, with its arguments and its address, read when the kernel has read or written it, so that it is in memory.
 *
 * WHAT IS COUNTED WHERE
 *   stats          (process, number) -> calls, errors, their time, the longest, a histogram: slot n has those that took
 *                  2^n ns or more and less than 2^(n+1); the last slot the rest. A slot a CPU
 *   errors         (process, number, errno) -> how often. What a signal interrupts has an errno of the kernel's own, of
 *                  512 or more; the process sees EINTR, or the call starts again
 *   processes      process -> its name, as of its first call and of its last exec
 *   threads        the call that a thread is in; deleted when the thread ends
 *   events         ring buffer of struct event
 *   totals         by enum total, a slot a CPU: EVENT_LOST, the ring buffer was full. NO_ROOM_THREAD, NO_ROOM_STATS,
 *                  NO_ROOM_ERROR: a table was full, and a call is not counted there. The kernel counts the runs
 *                  that it skipped: `program.misses`
 *
 * HOOKS
 *   raw_tp/sys_enter, sys_exit        every system call of the machine. The arguments are in the registers, at offsets
 *                                     that bpf/trace_syscall.py asks the kernel's BTF for
 *   tracepoint/raw_syscalls/...       the same, 80 ns dearer a call, where there is no BTF, or another architecture
 *   kprobe, kretprobe on __x64_sys_*  on chosen calls alone: all others cost nothing then
 *   raw_tp/sched_process_exit         a thread ends
 *
 * MACROS
 *   PID             only this process      COMM_LOW, COMM_HIGH   only processes of this name, as two numbers
 *   SELF            the tracer, which is left out
 *   WANTED(number)  which calls, as an expression
 *   NO_EVENTS       count alone
 *   THREADS 32768, ENTRIES 16384, RING_PAGES 1024     room: threads, lines of `stats` and of `errors`, events
 *   BY_TRACEPOINT, BY_KPROBE   the other hooks. Without the first, REGISTER_0 to REGISTER_5 are needed: where struct
 *                   pt_regs has the arguments; and with the second REGISTER_NUMBER and REGISTER_RESULT
 *
 * KERNEL 5.8 or later (ring buffer); tried on 6.18, and by kprobes on 6.1 and 6.12.
 *
 * NOT HANDLED
 *   Calls that never return (exit, exit_group) or began before it was attached. read() and write() on sockets have no
 *   event. Data is not copied, only lengths. 32-bit programs on a 64-bit kernel are counted under the 64-bit name of
 *   their number. What io_uring does makes no system call. In a PID namespace of its own the tracer does not know its
 *   number, and cannot leave itself out.
 */
#include <asm/unistd.h>
#include <linux/stat.h>

#ifndef THREADS
#define THREADS 32768
#endif
#ifndef ENTRIES
#define ENTRIES 16384
#endif
#ifndef RING_PAGES
#define RING_PAGES 1024
#endif
#ifndef WANTED
#define WANTED(number) 1
#endif
#define SLOTS	      40  /* the last: 2^39 ns are nine minutes */
#define ADDRESS_BYTES 128 /* a power of two; struct sockaddr_un has 110 */
#define MOST_ERRNO    4095

enum total {
	EVENT_LOST,
	NO_ROOM_THREAD,
	NO_ROOM_STATS,
	NO_ROOM_ERROR,
	TOTALS,
};

struct call {
	u32 pid;
	u32 number;
};

struct stats {
	u64 calls;
	u64 errors;
	u64 total_ns;
	u64 longest_ns;
	u64 slots[SLOTS];
};

struct error {
	u32 pid;
	u32 number;
	u32 error;
};

struct process {
	char comm[16];
};

/* The call that a thread is in; since_ns 0: in none. */
struct thread {
	u64 since_ns;
	u32 number;
	u32 has_event;
	u64 arguments[6];
};

struct event {
	u64 at_ns; /* CLOCK_MONOTONIC, when it returned */
	u64 took_ns;
	s64 result;
	u64 arguments[6];
	u32 pid;
	u32 thread;
	u32 number;
	u32 address_bytes; /* of `address`, 0: none was given */
	u8 address[ADDRESS_BYTES];
	char comm[16];
};

BPF_HASH(threads, u32, struct thread, THREADS);
BPF_HASH(processes, u32, struct process, ENTRIES);
BPF_HASH(errors, struct error, u64, ENTRIES);
BPF_TABLE("percpu_hash", struct call, struct stats, stats, ENTRIES);
BPF_PERCPU_ARRAY(empty, struct stats, 1); /* never written: too large for the stack */
BPF_PERCPU_ARRAY(totals, u64, TOTALS);
BPF_RINGBUF_OUTPUT(events, RING_PAGES);

/* A slot of this CPU: these programs run in processes with preemption off, so nobody else writes it now. */
static __always_inline void count(u32 total)
{
	u64 *value = totals.lookup(&total);

	if (value)
		++*value;
}

static __always_inline int is_wanted(u32 pid, u32 number)
{
#ifdef SELF
	if (pid == SELF)
		return 0;
#endif
#ifdef PID
	if (pid != PID)
		return 0;
#endif
#ifdef COMM_LOW
	u64 comm[2] = {};

	bpf_get_current_comm(comm, sizeof(comm));
	if (comm[0] != COMM_LOW || comm[1] != COMM_HIGH)
		return 0;
#endif
	return WANTED(number);
}

static __always_inline int is_of_network(u32 number)
{
#ifdef NO_EVENTS
	return 0;
#else
	switch (number) {
	case __NR_socket:
	case __NR_bind:
	case __NR_listen:
	case __NR_connect:
#ifdef __NR_accept
	case __NR_accept:
#endif
	case __NR_accept4:
	case __NR_sendto:
	case __NR_recvfrom:
	case __NR_sendmsg:
	case __NR_recvmsg:
	case __NR_close:
		return 1;
	}
	return 0;
#endif
}

static __always_inline u32 log2_of(u64 value)
{
	u32 log = 0;

#pragma unroll
	for (int shift = 32; shift; shift /= 2) {
		if (value >> shift) {
			value >>= shift;
			log += shift;
		}
	}
	return log;
}

static __always_inline void remember_name(u32 pid)
{
	struct process process = {};

	bpf_get_current_comm(process.comm, sizeof(process.comm));
	processes.update(&pid, &process);
}

static __always_inline void count_error(u32 pid, u32 number, u32 error)
{
	struct error key = { .pid = pid, .number = number, .error = error };
	u64 none = 0, *times = errors.lookup_or_try_init(&key, &none);

	if (times)
		__sync_fetch_and_add(times, 1);
	else
		count(NO_ROOM_ERROR);
}

/* Per CPU, and no atomics: as for count(). */
static __always_inline void add(u32 pid, u32 number, u64 took_ns, s64 result)
{
	struct call key = { .pid = pid, .number = number };
	struct stats *line = stats.lookup(&key);
	u32 slot = log2_of(took_ns), zero = 0;

	if (!line) {
		struct stats *none = empty.lookup(&zero);

		if (!none)
			return;
		stats.insert(&key, none);
		line = stats.lookup(&key);
		remember_name(pid);
	}
	if (!line) {
		count(NO_ROOM_STATS);
		return;
	}
	line->calls++;
	line->total_ns += took_ns;
	if (took_ns > line->longest_ns)
		line->longest_ns = took_ns;
	line->slots[slot < SLOTS ? slot : SLOTS - 1]++;
	if (result < 0 && result >= -MOST_ERRNO) {
		line->errors++;
		count_error(pid, number, -result);
	}
	if (number == __NR_execve && !result)
		remember_name(pid);
}

#define READ(type, address)                                                                                            \
	({                                                                                                             \
		type value = 0;                                                                                        \
		bpf_probe_read_kernel(&value, sizeof(value), (void *)(address));                                       \
		value;                                                                                                 \
	})

#define READ_USER(type, address)                                                                                       \
	({                                                                                                             \
		type value = 0;                                                                                        \
		bpf_probe_read_user(&value, sizeof(value), (void *)(address));                                         \
		value;                                                                                                 \
	})

/* Most that is closed is a file. What is no descriptor reads as nothing, or as whatever lies there: both are no socket.
 */
static __always_inline int is_socket(u32 descriptor)
{
#ifdef FILE_INODE
	u64 files = READ(u64, bpf_get_current_task() + TASK_FILES);
	u64 table = READ(u64, files + FILES_TABLE);
	u64 file = READ(u64, READ(u64, table + TABLE_FILES) + descriptor * sizeof(u64));

	return S_ISSOCK(READ(u16, READ(u64, file + FILE_INODE) + INODE_MODE));
#else
	return 0;
#endif
}

/* Where this thread's call is kept; made when it is seen for the first time. */
static __always_inline struct thread *own_place(u32 thread)
{
	struct thread none = {}, *place = threads.lookup(&thread);

	if (!place) {
		if (threads.update(&thread, &none))
			count(NO_ROOM_THREAD);
		place = threads.lookup(&thread);
	}
	return place;
}

/* `arguments` are read by the caller if this says so. */
static __always_inline struct thread *begin(u32 number)
{
	u64 id = bpf_get_current_pid_tgid();
	struct thread *place;

	if (!is_wanted(id >> 32, number))
		return NULL;
	place = own_place(id);
	if (!place)
		return NULL;
	place->number = number;
	place->has_event = is_of_network(number);
	place->since_ns = bpf_ktime_get_ns();
	return place->has_event ? place : NULL;
}

/* struct sockaddr * in user space, and how long it is. */
struct address {
	u64 at;
	u32 bytes;
};

static __always_inline struct address address_of(const struct thread *place, s64 result)
{
	const u64 *arguments = place->arguments;
	struct address found = {};

	switch (place->number) {
	case __NR_bind:
	case __NR_connect:
		found.at = arguments[1];
		found.bytes = arguments[2];
		break;
	case __NR_sendto:
		found.at = arguments[4];
		found.bytes = arguments[5];
		break;
#ifdef __NR_accept
	case __NR_accept:
#endif
	case __NR_accept4:
		if (result >= 0 && arguments[1]) {
			found.at = arguments[1];
			found.bytes = READ_USER(u32, arguments[2]);
		}
		break;
	case __NR_recvfrom:
		if (result >= 0 && arguments[4]) {
			found.at = arguments[4];
			found.bytes = READ_USER(u32, arguments[5]);
		}
		break;
	case __NR_recvmsg:
	case __NR_sendmsg: /* struct user_msghdr begins with both */
		found.at = READ_USER(u64, arguments[1]);
		found.bytes = READ_USER(u32, arguments[1] + 8);
		break;
	}
	if (!found.at)
		found.bytes = 0;
	return found;
}

static __always_inline void tell(const struct thread *place, u64 id, u64 now_ns, s64 result)
{
	struct event *event = events.ringbuf_reserve(sizeof(struct event));
	struct address address;
	u32 bytes;

	if (!event) {
		count(EVENT_LOST);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->at_ns = now_ns;
	event->took_ns = now_ns - place->since_ns;
	event->result = result;
	event->pid = id >> 32;
	event->thread = id;
	event->number = place->number;
	__builtin_memcpy(event->arguments, place->arguments, sizeof(event->arguments));
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	address = address_of(place, result);
	bytes = address.bytes < ADDRESS_BYTES ? address.bytes : ADDRESS_BYTES - 1;
	/* clang forgets what it compared, or else it drops the mask, which the verifier needs. */
	asm volatile("" : "+r"(bytes));
	bytes &= ADDRESS_BYTES - 1;
	if (bytes && !bpf_probe_read_user(event->address, bytes, (void *)address.at))
		event->address_bytes = bytes;
	events.ringbuf_submit(event, 0);
}

static __always_inline int end(s64 result)
{
	u64 id = bpf_get_current_pid_tgid(), now_ns;
	u32 thread = id;
	struct thread *place = threads.lookup(&thread);

	if (!place || !place->since_ns)
		return 0;
	now_ns = bpf_ktime_get_ns();
	add(id >> 32, place->number, now_ns - place->since_ns, result);
	if (place->has_event)
		tell(place, id, now_ns, result);
	place->since_ns = 0;
	return 0;
}

#ifndef BY_TRACEPOINT
static __always_inline void read_arguments(struct thread *place, u64 registers)
{
	if (place->number == __NR_close && !is_socket(READ(u32, registers + REGISTER_0)))
		place->has_event = 0;
	place->arguments[0] = READ(u64, registers + REGISTER_0);
	place->arguments[1] = READ(u64, registers + REGISTER_1);
	place->arguments[2] = READ(u64, registers + REGISTER_2);
	place->arguments[3] = READ(u64, registers + REGISTER_3);
	place->arguments[4] = READ(u64, registers + REGISTER_4);
	place->arguments[5] = READ(u64, registers + REGISTER_5);
}

#ifdef BY_KPROBE
/* A call's function is given where the registers of user space are kept: its only argument, like any function's first.
 */
int kprobe__call(struct pt_regs *ctx)
{
	u64 registers = READ(u64, (void *)ctx + REGISTER_0);
	struct thread *place = begin(READ(u32, registers + REGISTER_NUMBER));

	if (place)
		read_arguments(place, registers);
	return 0;
}

int kretprobe__call(struct pt_regs *ctx)
{
	return end(READ(s64, (void *)ctx + REGISTER_RESULT));
}
#else
/* (struct pt_regs *registers, long number) */
RAW_TRACEPOINT_PROBE(sys_enter)
{
	struct thread *place = begin(ctx->args[1]);

	if (place)
		read_arguments(place, ctx->args[0]);
	return 0;
}

/* (struct pt_regs *registers, long result) */
RAW_TRACEPOINT_PROBE(sys_exit)
{
	return end(ctx->args[1]);
}
#endif
#else
TRACEPOINT_PROBE(raw_syscalls, sys_enter)
{
	struct thread *place = begin(args->id);

	if (!place)
		return 0;
	if (place->number == __NR_close && !is_socket(args->args[0]))
		place->has_event = 0;
	__builtin_memcpy(place->arguments, args->args, sizeof(place->arguments));
	return 0;
}

TRACEPOINT_PROBE(raw_syscalls, sys_exit)
{
	return end(args->ret);
}
#endif

/* In the thread that ends. */
RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	u32 thread = bpf_get_current_pid_tgid();

	threads.delete(&thread);
	return 0;
}
