// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Counts the frames that XDP hands to an interface, by what the driver says: taken, or refused since its ring is full.
 *
 * A generator that outruns its own interface would otherwise take its own losses for those of the other end.
 * Knobs: the interface's index and the inode of its namespace. Oldest kernel: 5.6, with BTF.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "net_device.h"

const volatile int interface;
const volatile __u32 namespace;

__u64 taken;
__u64 refused;

SEC("tp_btf/xdp_devmap_xmit")
int BPF_PROG(leave, const struct net_device *from, const struct net_device *to, int sent, int drops)
{
	if (to->ifindex != interface || to->nd_net.net->ns.inum != namespace)
		return 0;
	/* Another CPU may flush frames of its own into the same interface. */
	__sync_fetch_and_add(&taken, sent);
	__sync_fetch_and_add(&refused, drops);
	return 0;
}

char _license[] SEC("license") = "GPL";
