/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * recorder: what happens to frames in chosen network namespaces, kept until somebody asks why one of them is missing.
 *
 * It stands in nobody's way: no hook of an interface, no packet socket, no clone of a frame. It listens to tracepoints,
 * which see a frame
 *   SENT       when the driver gets it (net_dev_start_xmit): behind qdisc and tc egress
 *   RECEIVED   when the stack gets it (netif_receive_skb): behind native XDP, before generic XDP and tc ingress
 *   DROPPED    when it is thrown away, by whom and why (kfree_skb)
 * and what XDP throws away, of which the kernel tells numbers and no frame:
 *   XDP_EXCEPTION     a verdict that could not be done (xdp_exception; XDP_ABORTED too)
 *   REDIRECT_REFUSED  bpf_redirect() to what cannot take the frame (xdp_redirect_err); `reason` is the errno
 *   XMIT_REFUSED      a redirect or XDP_TX that its target did not take (xdp_devmap_xmit, xdp_bulk_tx)
 *
 * MAPS
 *   watched   the inodes of the namespaces that are recorded, each at the place that its low 16 bits name
 *   ring      the last RECORDS of all, oldest overwritten
 *   bytes     their frames, one behind the other: the last BYTES, up to SNAP of the linear part of each
 *   losses    how often each loss happened, exact also where the ring has forgotten it
 *   next      number of records ever written; while `recording` is 0 nothing is
 *
 * SEVERAL CPUs: each takes a slot of its own by an atomic addition. A reader comes when traffic is over.
 * KERNEL 5.10 or later with BTF; the reason of a drop since 5.17: `reasons` says whether there is one.
 * NOT HANDLED: what lies in a frame's fragments (most of a large TCP segment).
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "net_device.h"

#define RECORDS		 8192	   /* a power of two, and so is BYTES */
#define BYTES		 (2 << 20) /* in order, so that small frames stay in the cache */
#define SNAP		 2048
#define LOSSES		 1024
#define NAMESPACES	 65536
#define UNSET		 0xffff /* a header's offset that nobody has set */
#define CHECKSUM_PARTIAL 3

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock_common {
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned int len;
	unsigned int data_len;
	__u8 ip_summed : 2;
	__be16 protocol;
	__be16 vlan_proto;
	__u16 vlan_tci;
	__u16 mac_header;
	__u16 network_header;
	unsigned char *head;
	unsigned char *data;
};

#pragma clang attribute pop

struct bpf_prog;

enum kind {
	SENT,
	RECEIVED,
	DROPPED,
	XDP_EXCEPTION,
	REDIRECT_REFUSED,
	XMIT_REFUSED,
};

struct record {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 skb;     /* its address: the same from interface to interface, until it is freed */
	__u64 place;   /* of a drop: the code that did it */
	__u32 netns;
	__u32 ifindex;
	enum kind kind;
	__u32 reason; /* of a drop */
	__u32 length; /* of the whole frame; without Ethernet header where `no_ethernet` */
	__u16 kept;   /* bytes of it in `bytes` */
	__u8 no_ethernet;
	__u8 partial_checksum;
	__be16 vlan_proto; /* of a tag that is not in the frame's bytes; 0: none */
	__u16 vlan_tci;
	__u64 at; /* its first byte, of all that were ever written */
};

struct loss {
	__u64 place;
	__u32 netns;
	__u32 ifindex;
	enum kind kind;
	__u32 reason;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NAMESPACES);
	__type(key, __u32);
	__type(value, __u32);
} watched SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RECORDS);
	__type(key, __u32);
	__type(value, struct record);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LOSSES);
	__type(key, struct loss);
	__type(value, __u64);
} losses SEC(".maps");

const volatile bool reasons = true;

__u64 next;
__u64 next_byte;
__u32 recording;
__u8 bytes[BYTES + SNAP]; /* a frame that begins before the end may go over it */

static __always_inline __u32 netns_of(const struct net_device *dev)
{
	return dev ? dev->nd_net.net->ns.inum : 0;
}

static __always_inline bool is_watched(__u32 netns)
{
	__u32 place = netns & (NAMESPACES - 1);
	__u32 *inode = bpf_map_lookup_elem(&watched, &place); /* an array: inlined, where a hash takes 20 ns */

	return netns && inode && *inode == netns;
}

static __always_inline struct record *begin(enum kind kind, __u32 netns, __u32 ifindex)
{
	__u32 slot = __sync_fetch_and_add(&next, 1) & (RECORDS - 1);
	struct record *record = bpf_map_lookup_elem(&ring, &slot);

	if (!record)
		return NULL;
	record->time_ns = bpf_ktime_get_ns();
	record->kind = kind;
	record->netns = netns;
	record->ifindex = ifindex;
	record->skb = record->place = 0;
	record->reason = record->length = 0;
	record->kept = 0;
	record->no_ethernet = record->partial_checksum = 0;
	record->vlan_proto = record->vlan_tci = 0;
	return record;
}

static __always_inline void keep_frame(struct record *record, const struct sk_buff *skb, const unsigned char *start)
{
	__u32 before = skb->data - start; /* what was pulled already */
	__u32 linear = skb->len - skb->data_len + before;

	record->skb = (__u64)skb;
	record->length = skb->len + before;
	record->partial_checksum = BPF_CORE_READ_BITFIELD(skb, ip_summed) == CHECKSUM_PARTIAL;
	record->vlan_proto = skb->vlan_proto;
	record->vlan_tci = skb->vlan_tci;
	if (linear > SNAP)
		linear = SNAP;
	record->at = __sync_fetch_and_add(&next_byte, linear);
	if (!bpf_probe_read_kernel(&bytes[record->at & (BYTES - 1)], linear, start))
		record->kept = linear;
}

static __always_inline void count_loss(enum kind kind, __u32 netns, __u32 ifindex, __u32 reason, __u64 place,
				       __u64 frames)
{
	struct loss loss = { .place = place, .netns = netns, .ifindex = ifindex, .kind = kind, .reason = reason };
	__u64 *count = bpf_map_lookup_elem(&losses, &loss), none = 0;

	if (!count) {
		bpf_map_update_elem(&losses, &loss, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&losses, &loss);
	}
	if (count)
		__sync_fetch_and_add(count, frames);
}

SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(sent, const struct sk_buff *skb, const struct net_device *dev)
{
	struct record *record;
	__u32 netns;

	if (!recording)
		return 0;
	netns = netns_of(dev);
	if (!is_watched(netns))
		return 0;
	record = begin(SENT, netns, dev->ifindex);
	if (record)
		keep_frame(record, skb, skb->data);
	return 0;
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(received, struct sk_buff *skb)
{
	struct record *record;
	__u32 netns;

	if (!recording)
		return 0;
	netns = netns_of(skb->dev);
	if (!is_watched(netns))
		return 0;
	record = begin(RECEIVED, netns, skb->dev->ifindex);
	if (record)
		keep_frame(record, skb, skb->head + skb->mac_header);
	return 0;
}

/* A frame in a socket's queue has no device any more (the field is used for something else): its socket tells. */
static __always_inline __u32 netns_of_dropped(const struct sk_buff *skb, __u32 *ifindex)
{
	const struct net_device *dev = skb->dev;
	const struct sock *sk = skb->sk;
	__u32 netns = netns_of(dev);

	if (is_watched(netns)) {
		*ifindex = dev->ifindex;
		return netns;
	}
	netns = sk ? sk->__sk_common.skc_net.net->ns.inum : 0;
	return is_watched(netns) ? netns : 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(dropped, struct sk_buff *skb, void *place)
{
	__u32 reason = reasons ? ctx[2] : 0;
	struct record *record;
	__u32 netns, ifindex = 0;

	if (!recording || !skb->protocol) /* without a protocol: a netlink message that nobody listened to */
		return 0;
	netns = netns_of_dropped(skb, &ifindex);
	if (!netns)
		return 0;
	count_loss(DROPPED, netns, ifindex, reason, (__u64)place, 1);
	record = begin(DROPPED, netns, ifindex);
	if (!record)
		return 0;
	record->place = (__u64)place;
	record->reason = reason;
	record->no_ethernet = skb->mac_header == UNSET || skb->mac_header >= skb->network_header;
	keep_frame(record, skb, skb->head + (record->no_ethernet ? skb->network_header : skb->mac_header));
	return 0;
}

static __always_inline int lost_by_xdp(enum kind kind, const struct net_device *dev, __u32 reason, __u64 frames)
{
	__u32 netns = recording ? netns_of(dev) : 0;
	struct record *record;

	if (!is_watched(netns))
		return 0;
	count_loss(kind, netns, dev->ifindex, reason, 0, frames);
	record = begin(kind, netns, dev->ifindex);
	if (record)
		record->reason = reason;
	return 0;
}

SEC("tp_btf/xdp_exception")
int BPF_PROG(exception, const struct net_device *dev, const struct bpf_prog *prog, __u32 action)
{
	return lost_by_xdp(XDP_EXCEPTION, dev, action, 1);
}

SEC("tp_btf/xdp_redirect_err")
int BPF_PROG(redirect_refused, const struct net_device *dev, const struct bpf_prog *prog, const void *target, int error)
{
	return lost_by_xdp(REDIRECT_REFUSED, dev, -error, 1);
}

SEC("tp_btf/xdp_devmap_xmit")
int BPF_PROG(devmap_xmit, const struct net_device *from, const struct net_device *to, int sent_frames, int drops,
	     int error)
{
	return drops > 0 ? lost_by_xdp(XMIT_REFUSED, to, -error, drops) : 0;
}

SEC("tp_btf/xdp_bulk_tx")
int BPF_PROG(bulk_tx, const struct net_device *dev, int sent_frames, int drops, int error)
{
	return drops > 0 ? lost_by_xdp(XMIT_REFUSED, dev, -error, drops) : 0;
}

char LICENSE[] SEC("license") = "GPL";
