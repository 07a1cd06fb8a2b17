// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 07_lru_map: remembers source ports in two tables of 128, and shows what becomes of the 129th.
 *
 * A hash that is full refuses new keys (-E2BIG), so an attacker can fill it. An LRU hash forgets what was not used for
 * longest, more or less: that suits caches and flow tables, whose entries may be forgotten.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key, __be16);
	__type(value, __u64);
} refusing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 128);
	__type(key, __be16);
	__type(value, __u64);
} forgetting SEC(".maps");

__u64 refused;

SEC("xdp")
int remember_ports(struct xdp_md *ctx)
{
	struct udphdr *udp = (void *)(long)ctx->data + sizeof(struct ethhdr) + sizeof(struct iphdr);
	__u64 now = bpf_ktime_get_ns();

	if ((void *)(udp + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (bpf_map_update_elem(&refusing, &udp->source, &now, BPF_ANY))
		__sync_fetch_and_add(&refused, 1);
	bpf_map_update_elem(&forgetting, &udp->source, &now, BPF_ANY);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
