// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 06_per_cpu_map: counts packets and bytes without any lock or atomic: each CPU has a value of its own.
 *
 * In softirq, where XDP and tc run, a program is not interrupted by itself on the same CPU. So nobody else writes this
 * slot now, plain additions are exact, and no cache line travels between CPUs. User space reads one value a CPU and
 * adds them up. The array has all its entries from the beginning: a look-up of entry 0 cannot fail, but the verifier
 * wants to see the question.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct count {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

SEC("xdp")
int count_everything(struct xdp_md *ctx)
{
	__u32 slot = 0;
	struct count *count = bpf_map_lookup_elem(&counts, &slot);

	if (count) {
		count->packets++;
		count->bytes += ctx->data_end - ctx->data;
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
