// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 05_hash_map: counts packets by IPv4 protocol in a table that user space reads.
 *
 * A map outlives the program's single run: it is how a program remembers, and how it tells user space. A look-up gives
 * a pointer into the table or NULL, and the verifier insists that NULL is asked for.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u8);
	__type(value, __u64);
} packets SEC(".maps");

SEC("xdp")
int count_protocols(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	__u64 *count, one = 1;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	count = bpf_map_lookup_elem(&packets, &ip->protocol);
	if (count)
		__sync_fetch_and_add(count, 1);
	else /* if another CPU is faster, its entry is overwritten: an exact count wants BPF_NOEXIST and a second try */
		bpf_map_update_elem(&packets, &ip->protocol, &one, BPF_ANY);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
