/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What programs read of the kernel's TCP sockets. Each struct has but the members that are used: CO-RE finds their
 * offsets in the running kernel's BTF. Not to be included beside vmlinux.h, which has all of them.
 */
#ifndef LAB_TCP_SOCK_H
#define LAB_TCP_SOCK_H

#include <linux/in6.h>
#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct ns_common {
	__u32 inum;
};

struct net {
	struct ns_common ns;
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num; /* the local port, host order */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned long skc_flags;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

/* Bits of skc_flags. */
enum sock_flags {
	SOCK_DEAD, /* closed by its process */
	SOCK_DONE, /* the peer's FIN has come */
};

struct sock {
	struct sock_common __sk_common;
	int sk_err;
	__u16 sk_protocol;
	__u32 sk_ack_backlog; /* of a listener: connections that wait for accept() */
	__u32 sk_max_ack_backlog;
	struct sock_cgroup_data sk_cgrp_data;
};

struct inet_sock {
	struct sock sk;
};

typedef struct {
	int counter;
} atomic_t;

struct request_sock_queue {
	atomic_t qlen; /* of a listener: handshakes that are not done */
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue;
};

/* A handshake that is not done: SYN received, SYN+ACK sent. */
struct request_sock {
	struct sock_common __req_common;
	__u8 num_retrans; /* of the SYN+ACK */
};

struct minmax_sample {
	__u32 t;
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_received;
	__u64 bytes_acked;
	__u32 segs_in;
	__u32 segs_out;
	__u32 srtt_us; /* times 8 */
	__u32 snd_cwnd;
	__u32 rcv_wnd; /* what we advertised last, bytes */
	__u32 total_retrans;
	__u8 bpf_sock_ops_cb_flags;
	struct minmax rtt_min;
};

struct net_device {
	possible_net_t nd_net;
};

struct sk_buff {
	struct net_device *dev;
	unsigned char *head;
	__u16 network_header; /* from head, as the next */
	__u16 transport_header;
};

#pragma clang attribute pop

#endif /* LAB_TCP_SOCK_H */
