// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 16_tail_call: a program hands the frame on to another one, by a table of programs that may change while it runs.
 *
 * A tail call is a jump that never comes back, at most 33 in a row. It takes another program's place with what is on
 * its stack gone. If the slot is empty, nothing happens and the next line runs: so a feature can be switched on and off
 * by filling or emptying a slot.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 256); /* IP protocols */
	__type(key, __u32);
	__type(value, __u32);
} handlers SEC(".maps");

__u64 nobody;

SEC("xdp")
int dispatch(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	bpf_tail_call(ctx, &handlers, ip->protocol);
	__sync_fetch_and_add(&nobody, 1); /* still here: there is no program in the slot */
	return XDP_PASS;
}

SEC("xdp")
int refuse(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
