// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Tracing programs that count the frames that one process sends. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

__u64 seen;
const volatile __u32 watched_pid = 0;

static __always_inline int count(void)
{
	if ((__u32)(bpf_get_current_pid_tgid() >> 32) == watched_pid)
		__sync_fetch_and_add(&seen, 1);
	return 0;
}

SEC("tracepoint/net/net_dev_queue")
int by_tracepoint(void *ctx)
{
	(void)ctx;
	return count();
}

SEC("tracepoint/net/net_dev_qeue")
int by_misspelt_tracepoint(void *ctx)
{
	(void)ctx;
	return count();
}

SEC("raw_tp/net_dev_queue")
int by_raw_tracepoint(void *ctx)
{
	(void)ctx;
	return count();
}

SEC("raw_tp/net_dev_qeue")
int by_misspelt_raw_tracepoint(void *ctx)
{
	(void)ctx;
	return count();
}

SEC("tp_btf/net_dev_queue")
int by_btf(void *ctx)
{
	(void)ctx;
	return count();
}

SEC("fentry/__dev_queue_xmit")
int by_fentry(void *ctx)
{
	(void)ctx;
	return count();
}

SEC("kprobe/__dev_queue_xmit")
int by_kprobe(void *ctx)
{
	(void)ctx;
	return count();
}

SEC("kprobe.multi/__dev_queue_xmi*")
int by_many_kprobes(void *ctx)
{
	(void)ctx;
	return count();
}

SEC("perf_event")
int by_clock(void *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&seen, 1);
	return 0;
}

SEC("netfilter")
int by_netfilter(void *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&seen, 1);
	return 1;
}

char _license[] SEC("license") = "GPL";
