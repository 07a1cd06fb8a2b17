// SPDX-License-Identifier: GPL-2.0-only
/*
 * 14_tracepoint: adds up what one process sends, by interface, at a place that the kernel's authors marked.
 *
 * A tracepoint is called with the fields of its format file (/sys/kernel/tracing/events/net/net_dev_queue/format),
 * which hardly ever change. It sees the whole machine, so it must choose: here, by process. A string is not in the
 * record: __data_loc says how far behind its beginning it is.
 */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 watched_pid = 0;

struct interface {
	char name[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct interface);
	__type(value, __u64);
} sent_bytes SEC(".maps");

SEC("tracepoint/net/net_dev_queue")
int add_up(struct trace_event_raw_net_dev_template *ctx)
{
	struct interface interface = {};
	__u64 *bytes, none = 0;

	if (bpf_get_current_pid_tgid() >> 32 != watched_pid)
		return 0;
	bpf_probe_read_kernel_str(interface.name, sizeof(interface.name), (void *)ctx + (__u16)ctx->__data_loc_name);
	bpf_map_update_elem(&sent_bytes, &interface, &none, BPF_NOEXIST); /* the first one makes the entry */
	bytes = bpf_map_lookup_elem(&sent_bytes, &interface);
	if (bytes)
		__sync_fetch_and_add(bytes, ctx->len);
	return 0;
}

char _license[] SEC("license") = "GPL";
