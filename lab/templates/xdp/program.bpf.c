/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * new_program: counts every packet by verdict, and drops those of one IP protocol.
 *
 * VERDICTS
 *   a packet of `dropped_protocol`     XDP_DROP, later fragments too
 *   any other, ARP, malformed          XDP_PASS
 *
 * KNOBS (const volatile, set before load)
 *   dropped_protocol 0   an IP protocol: 17 is UDP; 0 drops nothing
 *
 * MAPS
 *   verdicts             packets and bytes by XDP verdict; per CPU
 *
 * KERNEL 5.10 or later
 *
 * NOT HANDLED
 *   What is inside a tunnel.
 */
#include <lab/parse.h>
#include <lab/verdict.h>

const volatile __u8 dropped_protocol = 0;

SEC("xdp")
int new_program(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct lab_packet pkt;

	if (dropped_protocol && lab_parse(&pkt, data, end) == LAB_OK && pkt.protocol == dropped_protocol)
		return lab_verdict(XDP_DROP, end - data);
	return lab_verdict(XDP_PASS, end - data);
}

char _license[] SEC("license") = "Dual BSD/GPL";
