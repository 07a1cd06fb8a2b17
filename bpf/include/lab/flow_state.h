/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The state of a flow, and how the segments of a TCP connection lead from one to the next (RFC 9293, 3.3.2), told by
 * somebody between the two ends: from what each side has sent and what of it the other side has acknowledged.
 *
 *   SYN_SENT      one SYN: a connection being opened, or half-open for good
 *   SYN_CROSSED   a SYN from either side, none acknowledged: simultaneous open
 *   SYN_RECEIVED  both, one of them acknowledged
 *   ESTABLISHED   both acknowledged; also a connection whose beginning was not seen
 *   FIN_WAIT      one FIN          CLOSE_WAIT  and it is acknowledged: half-closed
 *   CLOSING       two FINs, none acknowledged        LAST_ACK  one of them acknowledged
 *   TIME_WAIT     both acknowledged                  RESET     an RST that fits
 *   ONE_WAY, TWO_WAY   all protocols but TCP: packets from one side, from both
 *
 * An acknowledgement counts if it covers the SYN or FIN it is for; a reset, if its sequence number is within
 * RESET_REACH of what is known (RFC 5961 in the large). Windows are not looked at.
 */
#ifndef LAB_FLOW_STATE_H
#define LAB_FLOW_STATE_H

#include <stdbool.h>
#include <linux/tcp.h>
#include <linux/types.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lab/parse.h>

#define RESET_REACH (1 << 20)

#define TCP_FLAGS_AT 13 /* RFC 9293, 3.1 */
#define TCP_FIN	     0x01
#define TCP_SYN	     0x02
#define TCP_RST	     0x04
#define TCP_ACK	     0x10
#define TCP_DECISIVE (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)

enum flow_state {
	FREE,
	ONE_WAY,
	TWO_WAY,
	SYN_SENT,
	SYN_CROSSED,
	SYN_RECEIVED,
	ESTABLISHED,
	FIN_WAIT,
	CLOSE_WAIT,
	CLOSING,
	LAST_ACK,
	TIME_WAIT,
	RESET,
};

/* What a side has sent. Only its own packets set these, so no two CPUs write one byte. */
enum sent {
	SENT_SYN = 1,
	SENT_FIN = 2,
	SENT_RST = 4,
	ACKED_SYN = 8, /* the other side's */
	ACKED_FIN = 16,
	KNOWN = 32, /* isn and next_seq are numbers that were seen */
};

/* One side of a connection, as far as its segments told. */
struct tcp_side {
	__u32 isn;	/* initial sequence number, host order */
	__u32 next_seq; /* behind the last byte it sent */
	__u32 retransmits;
	__u8 sent;  /* enum sent */
	__u8 flags; /* all TCP flags it ever set */
	__u16 reserved;
};

/* What a segment says; host order. */
struct tcp_news {
	__u32 seq;
	__u32 ack;
	__u16 payload; /* bytes */
	__u8 flags;    /* decisive and others */
	__u8 reserved;
};

/* The TCP header's numbers; false when it is cut short or its length contradicts the packet's. */
static __always_inline bool read_tcp(const struct lab_packet *pkt, struct tcp_news *news)
{
	const struct tcphdr *tcp = pkt->l4;

	if ((void *)(tcp + 1) > pkt->end || tcp->doff < 5 || tcp->doff * 4 > pkt->l4_bytes)
		return false;
	news->seq = bpf_ntohl(tcp->seq);
	news->ack = bpf_ntohl(tcp->ack_seq);
	news->flags = ((const __u8 *)tcp)[TCP_FLAGS_AT];
	news->payload = pkt->l4_bytes - tcp->doff * 4;
	return true;
}

/* The length of UDP is the whole datagram's, of which a first fragment has but a part. */
static __always_inline bool is_whole_udp(const struct lab_packet *pkt)
{
	const struct udphdr *udp = pkt->l4;

	if (pkt->l4_bytes < sizeof(*udp) || (void *)(udp + 1) > pkt->end || bpf_ntohs(udp->len) < sizeof(*udp))
		return false;
	return pkt->fragment || bpf_ntohs(udp->len) <= pkt->l4_bytes;
}

static __always_inline bool makes_sense(__u8 flags)
{
	switch (flags & TCP_DECISIVE) {
	case TCP_SYN:
	case TCP_SYN | TCP_ACK:
	case TCP_ACK:
	case TCP_FIN | TCP_ACK:
	case TCP_RST:
	case TCP_RST | TCP_ACK:
		return true;
	}
	return false;
}

static __always_inline bool is_after(__u32 seq, __u32 than)
{
	return (__s32)(seq - than) > 0; /* RFC 9293, 3.4: numbers wrap */
}

static __always_inline bool is_near(__u32 seq, __u32 to)
{
	return seq - to + RESET_REACH <= 2 * RESET_REACH;
}

/* A side's own SYN: the first, one more of it, or another attempt while nobody has answered the last. */
static __always_inline void send_syn(struct tcp_side *mine, const struct tcp_side *other, const struct tcp_news *news)
{
	if (mine->sent & SENT_SYN && (other->sent & ACKED_SYN || mine->isn == news->seq)) {
		/* In a simultaneous open SYN+ACK says the same SYN again, and that is its first acknowledgement. */
		if (mine->isn == news->seq && (mine->sent & ACKED_SYN || !(news->flags & TCP_ACK)))
			mine->retransmits++;
		return;
	}
	mine->isn = news->seq;
	mine->next_seq = news->seq + 1;
	mine->sent |= SENT_SYN | KNOWN;
}

/* Data and FIN. */
static __always_inline void send_data(struct tcp_side *mine, const struct tcp_news *news)
{
	__u32 length = news->payload + (news->flags & TCP_FIN ? 1 : 0);
	__u32 end = news->seq + length;

	if (!(mine->sent & KNOWN)) {
		mine->next_seq = end;
		mine->sent |= KNOWN;
	} else if (is_after(end, mine->next_seq)) {
		mine->next_seq = end;
	} else if (length) {
		mine->retransmits++;
	}
	if (news->flags & TCP_FIN && !(mine->sent & SENT_FIN))
		mine->sent |= SENT_FIN;
}

/* RFC 9293, 3.10.7.3: a SYN+ACK for another SYN than the one that was sent is not for this connection. */
static __always_inline bool answers_another(const struct tcp_side *other, const struct tcp_news *news)
{
	if ((news->flags & (TCP_SYN | TCP_ACK)) != (TCP_SYN | TCP_ACK) || !(other->sent & KNOWN))
		return false;
	return !is_after(news->ack, other->isn) || is_after(news->ack, other->next_seq);
}

/* What the sender acknowledges of the other side's. */
static __always_inline void acknowledge(struct tcp_side *mine, struct tcp_side *other, const struct tcp_news *news)
{
	if (!(other->sent & KNOWN)) {
		/* The other side was never seen. It has sent a SYN, or there were nothing to acknowledge; and who
		 * acknowledges without a SYN of its own has opened the connection earlier. */
		mine->sent |= SENT_SYN | ACKED_SYN;
		other->sent |= news->flags & TCP_SYN ? SENT_SYN : SENT_SYN | ACKED_SYN;
		return;
	}
	if (is_after(news->ack, other->next_seq))
		return;
	if (!(mine->sent & ACKED_SYN) && other->sent & SENT_SYN && is_after(news->ack, other->isn))
		mine->sent |= ACKED_SYN;
	if (other->sent & SENT_FIN && !(mine->sent & ACKED_FIN) && news->ack == other->next_seq)
		mine->sent |= ACKED_FIN;
}

/* RFC 9293, 3.10.7.3 for a reset that answers a SYN, and RFC 5961 with a wide margin for all others. */
static __always_inline bool reset_fits(enum flow_state state, const struct tcp_side *mine, const struct tcp_side *other,
				       const struct tcp_news *news)
{
	if (mine->sent & KNOWN)
		return is_near(news->seq, mine->next_seq);
	if (news->flags & TCP_ACK)
		return !(other->sent & KNOWN) || is_near(news->ack, other->next_seq);
	return state != SYN_SENT;
}

/* What the `sent` of both sides comes to. */
static __always_inline enum flow_state tcp_state(__u8 one, __u8 another)
{
	__u8 either = one | another, both = one & another;

	if (either & SENT_RST)
		return RESET;
	if (both & ACKED_FIN)
		return TIME_WAIT;
	if (both & SENT_FIN)
		return either & ACKED_FIN ? LAST_ACK : CLOSING;
	if (either & SENT_FIN)
		return either & ACKED_FIN ? CLOSE_WAIT : FIN_WAIT;
	if (both & ACKED_SYN)
		return ESTABLISHED;
	if (both & SENT_SYN)
		return either & ACKED_SYN ? SYN_RECEIVED : SYN_CROSSED;
	return SYN_SENT;
}

/* A segment of `mine` in a connection that is in `state`; the state after it. */
static __always_inline enum flow_state follow_tcp(enum flow_state state, struct tcp_side *mine, struct tcp_side *other,
						  const struct tcp_news *news)
{
	if ((mine->flags | news->flags) != mine->flags)
		mine->flags |= news->flags;
	if (news->flags & TCP_RST) {
		if (reset_fits(state, mine, other, news))
			mine->sent |= SENT_RST;
		return tcp_state(mine->sent, other->sent);
	}
	if (answers_another(other, news))
		return state;
	if (news->flags & TCP_SYN)
		send_syn(mine, other, news);
	else
		send_data(mine, news);
	if (news->flags & TCP_ACK)
		acknowledge(mine, other, news);
	return tcp_state(mine->sent, other->sent);
}

/* A port used again: a SYN after the connection of `mine` has ended. */
static __always_inline bool tcp_begins_anew(enum flow_state state, const struct tcp_side *mine,
					    const struct tcp_news *news)
{
	if ((news->flags & TCP_DECISIVE) != TCP_SYN)
		return false;
	if (state == RESET)
		return true;
	/* RFC 6191: any later number is the new connection's; an earlier one is a duplicate of the old one's SYN. */
	return state == TIME_WAIT && (!(mine->sent & KNOWN) || is_after(news->seq, mine->next_seq - 1));
}

#endif /* LAB_FLOW_STATE_H */
