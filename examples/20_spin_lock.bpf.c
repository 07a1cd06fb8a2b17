// SPDX-License-Identifier: GPL-2.0-only
/*
 * 20_spin_lock: changes two numbers that belong together, so that nobody sees the one without the other.
 *
 * Atomic additions keep each number right, and not the pair: a reader between them sees a packet without its bytes. A
 * lock in the value keeps all CPUs out. Between lock and unlock no other function may be called, and no path may leave
 * without unlocking: the verifier sees to both. It costs: the CPUs wait for each other, so prefer per-CPU values.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct total {
	struct bpf_spin_lock lock;
	__u32 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct total);
} totals SEC(".maps");

__u32 torn;

SEC("xdp")
int add_both(struct xdp_md *ctx)
{
	__u32 slot = 0, bytes = ctx->data_end - ctx->data, wrong;
	struct total *total = bpf_map_lookup_elem(&totals, &slot);

	if (!total)
		return XDP_ABORTED;
	bpf_spin_lock(&total->lock);
	wrong = total->bytes != (__u64)total->packets * bytes; /* of frames of one length, never */
	total->packets++;
	total->bytes += bytes;
	bpf_spin_unlock(&total->lock);
	if (wrong)
		__sync_fetch_and_add(&torn, 1);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
