// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 09_map_in_map: closes the ports of a table that user space replaces as a whole, with one step.
 *
 * A change of many entries of one map is seen half done. So the outer map holds one inner map; user space fills a new
 * one and puts it in its place, and each packet meets the old table or the new one. When the update returns, no
 * program still uses the old one.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>

struct ports {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __be16);
	__type(value, __u8);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct ports);
} closed SEC(".maps");

SEC("xdp")
int close_ports(struct xdp_md *ctx)
{
	struct udphdr *udp = (void *)(long)ctx->data + sizeof(struct ethhdr) + sizeof(struct iphdr);
	__u32 slot = 0;
	void *table = bpf_map_lookup_elem(&closed, &slot);

	if (!table || (void *)(udp + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	return bpf_map_lookup_elem(table, &udp->dest) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
