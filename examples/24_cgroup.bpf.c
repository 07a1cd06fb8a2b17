// SPDX-License-Identifier: GPL-2.0-only
/*
 * 24_cgroup: processes of a cgroup that connect to port 80 come to port 8080, whoever they wanted to talk to.
 *
 * A program on a cgroup is called inside system calls of the processes in it, and of nobody else's. At connect4 it may
 * change the address before the kernel looks at it, once a connection and not once a packet. 1 lets the call go on, 0
 * lets it fail with EPERM.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

__u64 redirected;

SEC("cgroup/connect4")
int redirect(struct bpf_sock_addr *ctx)
{
	if (ctx->user_port == bpf_htons(80)) {
		ctx->user_port = bpf_htons(8080);
		__sync_fetch_and_add(&redirected, 1);
	}
	return 1;
}

char _license[] SEC("license") = "GPL";
