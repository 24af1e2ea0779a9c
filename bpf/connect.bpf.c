// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Attached to the cgroup of the pods. connect4/6 point an application's connect at the pod's own address, where
 * the agent's listeners take it, and keep what was dialled; getpeername4/6 tell the application the address that
 * it dialled, and a server the address of the client that really called. Nothing here decides about inbound.
 */
#include "lib/kernel.h"
#include "lib/address.h"
#include "lib/maps.h"

const volatile struct nm_connect_config nm_config SEC(".rodata.nm") = {};

static __always_inline int refuse(__u32 counter)
{
	nm_count(counter, 1);
	/* Before 5.18 the application sees EPERM. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_set_retval))
		bpf_set_retval(-ECONNREFUSED);
	return NM_REFUSE;
}

/* Whether one more unfinished handshake may be noted for the pod. */
static __always_inline int has_room(__u64 cookie)
{
	__u32 row = NM_COUNT_INFLIGHT;
	__u64 *all = bpf_map_lookup_elem(&nm_counters, &row);
	__u64 *load = bpf_map_lookup_elem(&nm_load, &cookie);

	if (all && (__s64)*all >= (__s64)nm_config.inflight_max)
		return 0;
	/* Signed: the end of a handshake that began before the pod was taken out and in again brings it below zero. */
	return !load || (__s64)*load < (__s64)nm_config.inflight_pod_max;
}

static __always_inline int connect(struct bpf_sock_addr *ctx, const int v6)
{
	struct nm_peer dialled = {};
	struct nm_pod *pod;
	struct bpf_sock *sk = ctx->sk;
	const struct nm_address *own;
	int as_v4;
	__u64 cookie;
	__u16 port;

	if (!sk)
		return NM_PROCEED;
	/* First of all: AF_UNSPEC and reuse leave what an earlier connect stored. */
	bpf_sk_storage_delete(&nm_peer, sk);
	if (ctx->type != SOCK_STREAM || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_MPTCP))
		return NM_PROCEED;
	if (ctx->user_family != (v6 ? AF_INET6 : AF_INET))
		return NM_PROCEED;

	cookie = bpf_get_netns_cookie(ctx);
	pod = bpf_map_lookup_elem(&nm_pods, &cookie);
	if (!pod || !pod->armed)
		return NM_PROCEED;

	if (v6) {
		NM_READ_IP6(dialled.ip, ctx->user_ip6);
	} else {
		nm_from_v4(&dialled.ip, NM_READ(ctx->user_ip4));
	}
	dialled.port = NM_READ(ctx->user_port);
	port = bpf_ntohs(dialled.port);
	as_v4 = nm_is_v4(&dialled.ip);

	if (port == 53 || nm_is_any(&dialled.ip) || nm_is_loopback(&dialled.ip) || nm_is_link_local6(&dialled.ip) ||
	    nm_is_own(pod, &dialled.ip) || nm_in_ranges(pod->skip_outbound, pod->skip_outbound_count, port) ||
	    nm_in_subnets(pod, &dialled.ip))
		return NM_PROCEED;
	if (bpf_sk_storage_get(&nm_mark, sk, 0, 0))
		return NM_PROCEED;
	own = as_v4 ? &pod->own4 : &pod->own6;
	if (nm_is_any(own))
		return NM_PROCEED;
	/* Bound to a device, it could not reach the agent over the loopback device. */
	if (sk->bound_dev_if) {
		nm_count(NM_COUNT_BOUND_DEVICE, 1);
		return NM_PROCEED;
	}
	if (!has_room(cookie))
		return refuse(NM_COUNT_INFLIGHT_FULL);

	dialled.kind = NM_KIND_OUTBOUND;
	dialled.pod = pod->index;
	if (!bpf_sk_storage_get(&nm_peer, sk, &dialled, BPF_SK_STORAGE_GET_F_CREATE))
		return refuse(NM_COUNT_STORAGE_FAILED);
	/* An MPTCP application holds the outer socket; the hook sees the first subflow. */
	if (nm_config.mptcp && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_skc_to_mptcp_sock)) {
		struct mptcp_sock *outer = bpf_skc_to_mptcp_sock(sk);
		struct nm_peer *shown;

		if (outer) {
			bpf_sk_storage_delete(&nm_peer, outer);
			shown = bpf_sk_storage_get(&nm_peer, outer, &dialled, BPF_SK_STORAGE_GET_F_CREATE);
			if (!shown)
				return refuse(NM_COUNT_STORAGE_FAILED);
		}
	}

	if (v6) {
		ctx->user_ip6[0] = own->word[0];
		ctx->user_ip6[1] = own->word[1];
		ctx->user_ip6[2] = own->word[2];
		ctx->user_ip6[3] = own->word[3];
	} else {
		ctx->user_ip4 = own->word[3];
	}
	/*
	 * Any of them, not one for each destination: an application that closes first leaves its source port in TIME_WAIT
	 * for a minute, and with all connections to a destination going to one port it soon has none left; long before,
	 * each connect searches for milliseconds.
	 */
	ctx->user_port = bpf_htons(NM_PORT_FIRST + bpf_get_prandom_u32() % NM_PORT_COUNT);
	return NM_PROCEED;
}

SEC("cgroup/connect4")
int nm_connect4(struct bpf_sock_addr *ctx)
{
	return connect(ctx, 0);
}

SEC("cgroup/connect6")
int nm_connect6(struct bpf_sock_addr *ctx)
{
	return connect(ctx, 1);
}

SEC("cgroup/getpeername4")
int nm_getpeername4(struct bpf_sock_addr *ctx)
{
	struct nm_peer *peer = ctx->sk ? bpf_sk_storage_get(&nm_peer, ctx->sk, 0, 0) : 0;

	if (peer && nm_is_v4(&peer->ip)) {
		ctx->user_ip4 = peer->ip.word[3];
		ctx->user_port = peer->port;
	}
	return NM_PROCEED;
}

SEC("cgroup/getpeername6")
int nm_getpeername6(struct bpf_sock_addr *ctx)
{
	struct nm_peer *peer = ctx->sk ? bpf_sk_storage_get(&nm_peer, ctx->sk, 0, 0) : 0;

	if (peer) {
		ctx->user_ip6[0] = peer->ip.word[0];
		ctx->user_ip6[1] = peer->ip.word[1];
		ctx->user_ip6[2] = peer->ip.word[2];
		ctx->user_ip6[3] = peer->ip.word[3];
		ctx->user_port = peer->port;
	}
	return NM_PROCEED;
}

char _license[] SEC("license") = "Dual BSD/GPL";
