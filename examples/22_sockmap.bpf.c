// SPDX-License-Identifier: GPL-2.0-only
/*
 * 22_sockmap: hands what arrives at one TCP socket to another one, without a copy through user space.
 *
 * A proxy reads from one connection and writes to another. With both sockets in a sockmap the kernel does it: the
 * program is attached to the map, is called for the bytes that arrive at any of its sockets, and says where they go on.
 * Here what comes in at slot 0 leaves by slot 1, and the other way round.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

const volatile __u16 first_port = 0; /* of the socket in slot 0 */

__u64 handed_over;

SEC("sk_skb/stream_verdict")
int splice(struct __sk_buff *skb)
{
	__u32 other = skb->local_port == first_port ? 1 : 0;

	__sync_fetch_and_add(&handed_over, skb->len);
	return bpf_sk_redirect_map(skb, &sockets, other, 0);
}

char _license[] SEC("license") = "GPL";
