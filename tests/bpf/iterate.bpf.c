// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* An iterator that writes the local port of each TCP socket, and a program that is none. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <lab/tcp_sock.h>

struct bpf_iter_meta {
	void *seq;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

SEC("iter/tcp")
int ports(struct bpf_iter__tcp *ctx)
{
	__u16 port;

	if (!ctx->sk_common)
		return 0;
	port = ctx->sk_common->skc_num;
	bpf_seq_write(ctx->meta->seq, &port, sizeof(port));
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int no_iterator(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
