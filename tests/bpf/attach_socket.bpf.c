// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Programs that choose or filter sockets. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

__u64 seen;

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} group SEC(".maps");

/* Whatever port of the namespace is called, socket 0 answers. */
SEC("sk_lookup")
int any_port(struct bpf_sk_lookup *ctx)
{
	__u32 first = 0;
	struct bpf_sock *sk = bpf_map_lookup_elem(&sockets, &first);
	long failed;

	if (!sk)
		return SK_PASS;
	__sync_fetch_and_add(&seen, 1);
	failed = bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	return failed ? SK_DROP : SK_PASS;
}

/* Of the sockets of a port, the second in the array gets everything. */
SEC("sk_reuseport")
int the_second(struct sk_reuseport_md *ctx)
{
	__u32 second = 1;

	__sync_fetch_and_add(&seen, 1);
	return bpf_sk_select_reuseport(ctx, &group, &second, 0) ? SK_DROP : SK_PASS;
}

SEC("socket")
int nothing_passes(struct __sk_buff *skb)
{
	(void)skb;
	__sync_fetch_and_add(&seen, 1);
	return 0;
}

SEC("sk_msg")
int no_message(struct sk_msg_md *msg)
{
	(void)msg;
	__sync_fetch_and_add(&seen, 1);
	return SK_DROP;
}

SEC("sk_skb/stream_verdict")
int no_stream(struct __sk_buff *skb)
{
	(void)skb;
	__sync_fetch_and_add(&seen, 1);
	return SK_DROP;
}

SEC("sk_skb/verdict")
int no_packet(struct __sk_buff *skb)
{
	(void)skb;
	__sync_fetch_and_add(&seen, 1);
	return SK_DROP;
}

SEC("flow_dissector")
int dissect_nothing(struct __sk_buff *skb)
{
	(void)skb;
	return BPF_OK;
}

char _license[] SEC("license") = "GPL";
