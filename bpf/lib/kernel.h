/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Headers in their order, the few kernel structures that programs look into (relocated by CO-RE; only the named
 * fields must exist, so no generated vmlinux.h), and constants that no uapi header for BPF brings.
 */
#ifndef NODEMESH_KERNEL_H
#define NODEMESH_KERNEL_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#include "../include/mesh_abi.h"

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define ECONNREFUSED 111
#define ENOBUFS 105

#define NM_TCP_CLOSE 7
#define NM_TCP_LISTEN 10

/* Verdicts of cgroup/connect and getpeername programs. */
#define NM_PROCEED 1
#define NM_REFUSE 0

/* The verifier wants context fields read one by one at constant offsets; clang likes to merge the reads. */
#define NM_READ(field) (*(const volatile __typeof__(field) *)&(field))

#define NM_READ_IP6(out, field)                 \
	do {                                    \
		(out).word[0] = NM_READ(field[0]); \
		(out).word[1] = NM_READ(field[1]); \
		(out).word[2] = NM_READ(field[2]); \
		(out).word[3] = NM_READ(field[3]); \
	} while (0)

struct sock_common {
	unsigned char skc_reuse : 4;
	unsigned char skc_reuseport : 1;
	unsigned char skc_ipv6only : 1;
	unsigned char skc_net_refcnt : 1;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
} __attribute__((preserve_access_index));

struct inet_sock {
	struct sock sk;
} __attribute__((preserve_access_index));

struct inet_connection_sock {
	struct inet_sock icsk_inet;
} __attribute__((preserve_access_index));

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 write_seq;
} __attribute__((preserve_access_index));

#endif
