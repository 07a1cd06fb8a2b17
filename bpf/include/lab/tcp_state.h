/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The states of a TCP socket, by the kernel's numbers (include/net/tcp_states.h), named so that BTF hands them on. */
#ifndef LAB_TCP_STATE_H
#define LAB_TCP_STATE_H

enum tcp_state {
	NO_STATE,
	ESTABLISHED,
	SYN_SENT,
	SYN_RECV,
	FIN_WAIT1,
	FIN_WAIT2,
	TIME_WAIT,
	CLOSE,
	CLOSE_WAIT,
	LAST_ACK,
	LISTEN,
	CLOSING,
	NEW_SYN_RECV,
	TCP_STATES,
};

#endif /* LAB_TCP_STATE_H */
