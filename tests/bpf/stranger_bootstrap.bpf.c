// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/* Written as libbpf-bootstrap has it: vmlinux.h, CO-RE reads, a ring buffer, a hash of tasks, a knob. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#define TASK_COMM_LEN 16

struct event {
	int pid;
	int ppid;
	char comm[TASK_COMM_LEN];
	bool exit_event;
};

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, pid_t);
	__type(value, u64);
} exec_start SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} rb SEC(".maps");

const volatile unsigned long long min_duration_ns = 0;
const struct event *unused __attribute__((unused));

SEC("tp/sched/sched_process_exit")
int handle_exit(struct trace_event_raw_sched_process_template *ctx)
{
	struct task_struct *task;
	struct event *e;
	pid_t pid = bpf_get_current_pid_tgid() >> 32;
	u64 id = bpf_get_current_pid_tgid(), ts = bpf_ktime_get_ns();

	if (pid != (pid_t)id || ts < min_duration_ns)
		return 0;
	bpf_map_update_elem(&exec_start, &pid, &ts, BPF_ANY);
	e = bpf_ringbuf_reserve(&rb, sizeof(*e), 0);
	if (!e)
		return 0;
	task = (struct task_struct *)bpf_get_current_task();
	e->exit_event = true;
	e->pid = pid;
	e->ppid = BPF_CORE_READ(task, real_parent, tgid);
	bpf_get_current_comm(&e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
	return 0;
}
