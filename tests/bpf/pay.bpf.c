// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Calls that are known in kind and number: in a loop, in functions, in a callback, behind a tail call. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

const volatile __u32 lookups = 3;

__u64 sum;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} known SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_HASH);
			__uint(max_entries, 8);
			__type(key, __u32);
			__type(value, __u64);
		});
} outer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} jumps SEC(".maps");

static __noinline __u64 stamp(__u64 other)
{
	return bpf_ktime_get_ns() ^ other;
}

static long add_random(__u32 index, void *context)
{
	sum += bpf_get_prandom_u32() + index;
	return 0;
}

/* `lookups` lookups in a hash; a function twice, which asks for the time; then whatever jumps[0] is. */
SEC("xdp")
int pay(struct xdp_md *ctx)
{
	for (__u32 round = 0; round < lookups && round < 64; round++) {
		__u32 key = round;
		__u64 *found = bpf_map_lookup_elem(&known, &key);

		if (found)
			sum += *found;
	}
	sum += stamp(1);
	sum += stamp(2);
	bpf_tail_call(ctx, &jumps, 0);
	return XDP_PASS;
}

/* A miss, an update in place, a lookup in an inner map; and a helper with five arguments. */
SEC("xdp")
int behind(struct xdp_md *ctx)
{
	__u32 zero = 0, nobody = 99;
	__u64 value = 1;
	void *inner;

	if (bpf_map_lookup_elem(&recent, &nobody))
		return XDP_DROP;
	bpf_map_update_elem(&recent, &zero, &value, BPF_ANY);
	bpf_map_lookup_elem(&counts, &zero);
	inner = bpf_map_lookup_elem(&outer, &zero);
	if (inner)
		bpf_map_lookup_elem(inner, &zero);
	sum += bpf_csum_diff(&zero, sizeof(zero), &nobody, sizeof(nobody), 0);
	return XDP_TX;
}

/* Five calls of a callback. */
SEC("xdp")
int call_back(struct xdp_md *ctx)
{
	bpf_loop(5, add_random, NULL, 0);
	return XDP_PASS;
}

/* A path that is not taken is not paid for. */
SEC("xdp")
int either(struct xdp_md *ctx)
{
	if (ctx->data_end - ctx->data > 100)
		sum += bpf_ktime_get_ns();
	else
		sum += bpf_jiffies64();
	return XDP_PASS;
}

/* An entry for every flow: the first word of the UDP header, its ports, is the key. */
SEC("xdp")
int per_flow(struct xdp_md *ctx)
{
	__u64 one = 1, *found;
	__u32 ports;

	if (bpf_xdp_load_bytes(ctx, 34, &ports, sizeof(ports)))
		return XDP_DROP;
	found = bpf_map_lookup_elem(&recent, &ports);
	if (!found)
		bpf_map_update_elem(&recent, &ports, &one, BPF_ANY);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
