// SPDX-License-Identifier: GPL-2.0-only
/*
 * 15_tp_btf: follows the kernel's own structs from a raw tracepoint, whatever kernel it is loaded on: CO-RE.
 *
 * A tp_btf program gets the tracepoint's real arguments, and the verifier knows their types: skb->dev->ifindex is read
 * as in the kernel. Compiled once, run everywhere: the object says "the field ifindex of struct net_device", and the
 * loader puts in the offset that it has on this kernel. What not every kernel has is asked for.
 */
#include <vmlinux.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

const volatile __u32 watched_pid = 0;

struct sk_buff___imagined { /* behind ___ is a note for people: to the loader it is struct sk_buff */
	int colour;
} __attribute__((preserve_access_index));

__u32 frames, last_bytes, last_ifindex;
char last_name[16];
bool has_mark, has_colour;

SEC("tp_btf/net_dev_queue")
int BPF_PROG(look_inside, struct sk_buff *skb)
{
	if (bpf_get_current_pid_tgid() >> 32 != watched_pid)
		return 0;
	frames++;
	last_bytes = skb->len;
	last_ifindex = skb->dev->ifindex;
	bpf_probe_read_kernel_str(last_name, sizeof(last_name), skb->dev->name);
	has_mark = bpf_core_field_exists(skb->mark);
	has_colour = bpf_core_field_exists(((struct sk_buff___imagined *)skb)->colour);
	return 0;
}

char _license[] SEC("license") = "GPL";
