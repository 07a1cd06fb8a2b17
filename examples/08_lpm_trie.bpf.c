// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 08_lpm_trie: decides by the longest prefix that contains the source address, as a routing table does.
 *
 * The key is a prefix length and an address in wire order. A look-up asks with the full length, and the map answers
 * with the entry of the longest prefix that fits. User space writes "10.0.0.0/8" and "10.1.0.0/16" into it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>

struct prefix {
	__u32 prefixlen; /* the kernel calls it so: struct bpf_lpm_trie_key */
	__be32 address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* this kind of map has no other way */
	__uint(max_entries, 1024);
	__type(key, struct prefix);
	__type(value, enum xdp_action);
} verdicts SEC(".maps");

SEC("xdp")
int decide_by_prefix(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + sizeof(struct ethhdr);
	struct prefix source = { .prefixlen = 32 };
	enum xdp_action *verdict;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	source.address = ip->saddr;
	verdict = bpf_map_lookup_elem(&verdicts, &source);
	return verdict ? *verdict : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
