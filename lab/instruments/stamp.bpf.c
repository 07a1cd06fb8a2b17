// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Two stamps for one frame in flight: when it leaves an interface, and when it arrives behind another.
 *
 * stamp_sent (tc egress) remembers the time; stamp_arrived (tc ingress) stores the difference in samples[]. The sender
 * sends the next frame only after this one has arrived or was lost, so one slot is enough and no frame is marked.
 *
 * Bias: one call of bpf_ktime_get_ns() (about 30 ns), the same with and without the program under test.
 * Oldest kernel: 5.5 (global data).
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define SAMPLES 16384 /* a power of two, so that a mask bounds the index */

__u64 sent_ns;
__u64 arrived; /* frames that arrived behind a stamped departure */
__u64 samples[SAMPLES];

SEC("tc")
int stamp_sent(struct __sk_buff *skb)
{
	(void)skb;
	sent_ns = bpf_ktime_get_ns();
	return TC_ACT_UNSPEC;
}

SEC("tc")
int stamp_arrived(struct __sk_buff *skb)
{
	__u64 now = bpf_ktime_get_ns();

	(void)skb;
	if (!sent_ns)
		return TC_ACT_UNSPEC;
	samples[arrived & (SAMPLES - 1)] = now - sent_ns;
	arrived++;
	sent_ns = 0;
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
