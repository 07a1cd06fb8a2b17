/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * new_program: refuses connections of a cgroup's processes to one port, IPv4 and IPv6.
 *
 * VERDICTS
 *   connect() to `closed_port`        refused: the process sees EPERM
 *   connect() to any other port       goes on
 *
 * KNOBS (const volatile, set before load)
 *   closed_port 0       0: none
 *
 * MAPS
 *   asked               port -> how often a process wanted to connect there
 *
 * KERNEL 5.10 or later
 *
 * NOT HANDLED
 *   Datagrams that are sent without connect(): they would need cgroup/sendmsg4 and sendmsg6.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define REFUSE 0
#define GO_ON  1

const volatile __u16 closed_port = 0;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u16);
	__type(value, __u64);
} asked SEC(".maps");

static __always_inline int judge(struct bpf_sock_addr *ctx)
{
	__u16 port = bpf_ntohs((__be16)ctx->user_port); /* a __u32 whose first two bytes are the port, in wire order */
	__u64 *count = bpf_map_lookup_elem(&asked, &port), one = 1;

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&asked, &port, &one, BPF_ANY);
	return closed_port && port == closed_port ? REFUSE : GO_ON;
}

SEC("cgroup/connect4")
int new_program4(struct bpf_sock_addr *ctx)
{
	return judge(ctx);
}

SEC("cgroup/connect6")
int new_program6(struct bpf_sock_addr *ctx)
{
	return judge(ctx);
}

char _license[] SEC("license") = "GPL";
