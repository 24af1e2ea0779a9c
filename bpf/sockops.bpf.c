// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Attached once to an ancestor cgroup of the agent and of all pods. Carries records from a connecting socket to
 * the socket that the other end accepts, and keeps the list of ports on which something listens in each pod:
 *
 *   TCP_CONNECT_CB (port chosen, SYN not sent)   socket storage -> nm_inflight
 *   PASSIVE_ESTABLISHED                          nm_inflight    -> accepted socket's storage
 *   STATE_CB to CLOSE of the connecting socket   what is left in nm_inflight goes
 *   TCP_LISTEN_CB, STATE_CB from LISTEN          nm_listen
 */
#include "lib/kernel.h"
#include "lib/address.h"
#include "lib/maps.h"

static __always_inline void addresses(struct bpf_sock_ops *ops, struct nm_address *local, struct nm_address *remote)
{
	__u32 local4 = NM_READ(ops->local_ip4);
	__u32 remote4 = NM_READ(ops->remote_ip4);

	/* All reads before the choice: see NM_READ. */
	NM_READ_IP6(*local, ops->local_ip6);
	NM_READ_IP6(*remote, ops->remote_ip6);
	/* Also for mapped addresses: while it connects, only these fields of an IPv6 socket are sure to be set. */
	if (ops->family == AF_INET || nm_is_v4(remote)) {
		nm_from_v4(remote, remote4);
		nm_from_v4(local, local4);
	}
}

/* remote_port: network order in the upper half on little-endian machines. */
static __always_inline __u16 remote_port_be(struct bpf_sock_ops *ops)
{
	__u32 port = NM_READ(ops->remote_port);

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return port >> 16;
#else
	return port;
#endif
}

static __always_inline void watch_state(struct bpf_sock_ops *ops)
{
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void load_change(__u64 cookie, __s64 change)
{
	__u64 *load = bpf_map_lookup_elem(&nm_load, &cookie);

	if (load)
		__sync_fetch_and_add(load, change);
	nm_count(NM_COUNT_INFLIGHT, change);
}

static __always_inline void on_connect(struct bpf_sock_ops *ops)
{
	struct nm_record record = {};
	struct nm_flow flow = {};
	struct bpf_sock *sk = ops->sk;
	struct tcp_sock *tcp;
	struct nm_mark *mark;
	long error;

	if (!sk)
		return;
	mark = bpf_sk_storage_get(&nm_mark, sk, 0, 0);
	if (mark) {
		if (mark->kind != NM_KIND_CARRIER && mark->kind != NM_KIND_CLIENT)
			return;
		record.kind = mark->kind;
		record.pod = mark->pod;
		record.ip = mark->ip;
		record.port = mark->port;
	} else {
		struct nm_peer *peer = bpf_sk_storage_get(&nm_peer, sk, 0, 0);

		if (!peer || peer->kind != NM_KIND_OUTBOUND)
			return;
		record.kind = peer->kind;
		record.pod = peer->pod;
		record.ip = peer->ip;
		record.port = peer->port;
	}
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return;
	record.sequence = tcp->write_seq;
	record.netns_cookie = bpf_get_netns_cookie(ops);
	record.socket_cookie = bpf_get_socket_cookie(ops);
	record.since_ns = bpf_ktime_get_ns();
	addresses(ops, &flow.source, &flow.target);
	flow.source_port = bpf_htons((__u16)NM_READ(ops->local_port));
	flow.target_port = remote_port_be(ops);

	error = bpf_map_update_elem(&nm_inflight, &flow, &record, BPF_NOEXIST);
	if (error == -17) /* EEXIST: of a socket that is gone without its callback */
		error = bpf_map_update_elem(&nm_inflight, &flow, &record, BPF_EXIST);
	else if (!error)
		load_change(record.netns_cookie, 1);
	if (error) {
		nm_count(NM_COUNT_RECORD_LOST, 1);
		return;
	}
	watch_state(ops);
}

static __always_inline void on_accepted(struct bpf_sock_ops *ops)
{
	struct nm_record *record;
	struct nm_accepted accepted = {};
	struct nm_flow flow = {};
	struct bpf_sock *sk = ops->sk;
	__u64 cookie;

	addresses(ops, &flow.target, &flow.source);
	flow.source_port = remote_port_be(ops);
	flow.target_port = bpf_htons((__u16)NM_READ(ops->local_port));
	record = bpf_map_lookup_elem(&nm_inflight, &flow);
	if (!record || !sk)
		return;
	if (ops->rcv_nxt - 1 != record->sequence) {
		nm_count(NM_COUNT_FOREIGN_RECORD, 1);
		return;
	}
	cookie = record->netns_cookie;
	/* Only a carrier crosses from one namespace to another. */
	if (record->kind != NM_KIND_CARRIER && bpf_get_netns_cookie(ops) != cookie) {
		nm_count(NM_COUNT_FOREIGN_RECORD, 1);
		return;
	}
	accepted.kind = record->kind;
	accepted.pod = record->pod;
	accepted.ip = record->ip;
	accepted.port = record->port;
	if (accepted.kind == NM_KIND_CLIENT) {
		struct nm_peer peer = {};

		peer.kind = accepted.kind;
		peer.ip = accepted.ip;
		peer.port = accepted.port;
		if (!bpf_sk_storage_get(&nm_peer, sk, &peer, BPF_SK_STORAGE_GET_F_CREATE))
			nm_count(NM_COUNT_RECORD_LOST, 1);
	} else if (!bpf_sk_storage_get(&nm_accepted, sk, &accepted, BPF_SK_STORAGE_GET_F_CREATE)) {
		nm_count(NM_COUNT_RECORD_LOST, 1);
	}
	if (!bpf_map_delete_elem(&nm_inflight, &flow))
		load_change(cookie, -1);
}

static __always_inline void on_listen(struct bpf_sock_ops *ops)
{
	struct nm_listen_key key = {};
	struct bpf_sock *sk = ops->sk;
	struct tcp_sock *tcp;
	__u32 zero = 0, local4, *number;
	__u64 *lost;

	key.netns_cookie = bpf_get_netns_cookie(ops);
	lost = bpf_map_lookup_elem(&nm_lost, &key.netns_cookie);
	if (!lost || !sk)
		return;
	NM_READ_IP6(key.ip, ops->local_ip6);
	local4 = NM_READ(ops->local_ip4);
	if (ops->family == AF_INET) {
		nm_from_v4(&key.ip, local4);
	} else if (nm_is_any(&key.ip) && !nm_is_v4(&key.ip)) {
		tcp = bpf_skc_to_tcp_sock(sk);
		if (tcp)
			key.v6only = BPF_CORE_READ_BITFIELD(&tcp->inet_conn.icsk_inet.sk.__sk_common, skc_ipv6only);
	}
	if (nm_is_loopback(&key.ip))
		return;
	key.port = NM_READ(ops->local_port);

	number = bpf_map_lookup_elem(&nm_listen, &key);
	if (!number) {
		bpf_map_update_elem(&nm_listen, &key, &zero, BPF_NOEXIST);
		number = bpf_map_lookup_elem(&nm_listen, &key);
	}
	if (!number || !bpf_sk_storage_get(&nm_noted, sk, &key, BPF_SK_STORAGE_GET_F_CREATE)) {
		__sync_fetch_and_add(lost, 1);
		nm_count(NM_COUNT_LISTEN_LOST, 1);
		return;
	}
	__sync_fetch_and_add(number, 1);
	watch_state(ops);
}

static __always_inline void on_state(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (ops->args[1] != NM_TCP_CLOSE || !sk)
		return;
	if (ops->args[0] == NM_TCP_LISTEN) {
		struct nm_listen_key *noted = bpf_sk_storage_get(&nm_noted, sk, 0, 0);
		__u32 *number = noted ? bpf_map_lookup_elem(&nm_listen, noted) : 0;

		/* Zero stays: only the agent removes entries, since nothing here could do it without a race. */
		if (number)
			__sync_fetch_and_add(number, -1);
		if (noted)
			bpf_sk_storage_delete(&nm_noted, sk);
		return;
	}
	if (bpf_sk_storage_get(&nm_peer, sk, 0, 0) || bpf_sk_storage_get(&nm_mark, sk, 0, 0)) {
		struct nm_record *record;
		struct nm_flow flow = {};
		__u64 cookie;

		addresses(ops, &flow.source, &flow.target);
		flow.source_port = bpf_htons((__u16)NM_READ(ops->local_port));
		flow.target_port = remote_port_be(ops);
		record = bpf_map_lookup_elem(&nm_inflight, &flow);
		if (!record || record->socket_cookie != bpf_get_socket_cookie(ops))
			return;
		cookie = record->netns_cookie;
		if (!bpf_map_delete_elem(&nm_inflight, &flow))
			load_change(cookie, -1);
	}
}

SEC("sockops")
int nm_sockops(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_accepted(ops);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ops);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ops);
		break;
	}
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
