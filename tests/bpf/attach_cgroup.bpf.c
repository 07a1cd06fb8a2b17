// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Programs on a cgroup: each counts in seen; refuse_connect lets no connection begin. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

__u64 seen;

SEC("cgroup/connect4")
int refuse_connect(struct bpf_sock_addr *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&seen, 1);
	return 0;
}

SEC("cgroup/connect4")
int allow_connect(struct bpf_sock_addr *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&seen, 1);
	return 1;
}

SEC("cgroup/sendmsg4")
int refuse_send(struct bpf_sock_addr *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&seen, 1);
	return 0;
}

SEC("cgroup_skb/egress")
int count_out(struct __sk_buff *skb)
{
	(void)skb;
	__sync_fetch_and_add(&seen, 1);
	return 1;
}

SEC("cgroup/skb")
int count_either(struct __sk_buff *skb)
{
	(void)skb;
	__sync_fetch_and_add(&seen, 1);
	return 1;
}

SEC("cgroup/sock_create")
int refuse_sockets(struct bpf_sock *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&seen, 1);
	return 0;
}

SEC("sockops")
int count_connects(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		__sync_fetch_and_add(&seen, 1);
	return 1;
}

char _license[] SEC("license") = "GPL";
