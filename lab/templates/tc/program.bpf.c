/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * new_program: counts every packet by verdict, and drops those of one IP protocol.
 *
 * VERDICTS
 *   a packet of `dropped_protocol`     TC_ACT_SHOT, later fragments too
 *   any other, ARP, malformed          TC_ACT_OK
 *
 * KNOBS (const volatile, set before load)
 *   dropped_protocol 0   an IP protocol: 17 is UDP; 0 drops nothing
 *
 * MAPS
 *   verdicts             packets and bytes by tc verdict; per CPU
 *
 * KERNEL 5.10 or later
 *
 * NOT HANDLED
 *   What is inside a tunnel.
 */
#define LAB_HOOK_TC /* the verdicts to count are those of tc, whose macros come after it */
#include <lab/verdict.h>

#include <linux/pkt_cls.h>

#include <lab/parse.h>

const volatile __u8 dropped_protocol = 0;

SEC("tc")
int new_program(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct lab_packet pkt;

	if (dropped_protocol && lab_parse(&pkt, data, end) == LAB_OK && pkt.protocol == dropped_protocol)
		return lab_verdict(TC_ACT_SHOT, end - data);
	return lab_verdict(TC_ACT_OK, end - data);
}

char _license[] SEC("license") = "Dual BSD/GPL";
