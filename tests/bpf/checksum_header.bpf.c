/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* lab/checksum.h as a calculator: the frame is a question, its last bytes become the answers. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <lab/checksum.h>

struct sum {
	__u16 checksum;
	__be16 from16, to16;
	__u16 reserved;
	__be32 from32, to32;
	__be32 from128[4], to128[4];
	__u16 after16, after32, after128, after_all;
	__u16 udp16, udp_all;
	__u16 folded;
	__u16 reserved_too;
};

SEC("xdp")
int checksum_header(struct xdp_md *ctx)
{
	struct sum *sum = (void *)(long)ctx->data;
	__u64 diff16, diff32, diff128, whole;

	if ((void *)(sum + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	diff16 = lab_csum_diff16(sum->from16, sum->to16);
	diff32 = lab_csum_diff32(sum->from32, sum->to32);
	diff128 = lab_csum_diff128(sum->from128, sum->to128);
	__builtin_memcpy(&whole, sum->from128, sizeof(whole));

	sum->after16 = lab_csum_apply(sum->checksum, diff16);
	sum->after32 = lab_csum_apply(sum->checksum, diff32);
	sum->after128 = lab_csum_apply(sum->checksum, diff128);
	sum->after_all = lab_csum_apply(sum->checksum, diff16 + diff32 + diff128);
	sum->udp16 = lab_csum_apply_udp(sum->checksum, diff16);
	sum->udp_all = lab_csum_apply_udp(sum->checksum, diff16 + diff32 + diff128);
	sum->folded = lab_csum_fold(whole);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
