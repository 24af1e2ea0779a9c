// SPDX-License-Identifier: Apache-2.0
/*
 * An application in a pod, played line by line: each line of standard input is one call, each answer one line of
 * standard output: a value, or the name of the errno. It knows nothing of a mesh. Harness: harness.ts.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t parse(const char *ip, int port, union address *out)
{
	memset(out, 0, sizeof(*out));
	if (inet_pton(AF_INET, ip, &out->v4.sin_addr) == 1) {
		out->v4.sin_family = AF_INET;
		out->v4.sin_port = htons(port);
		return sizeof(out->v4);
	}
	out->v6.sin6_family = AF_INET6;
	out->v6.sin6_port = htons(port);
	if (inet_pton(AF_INET6, ip, &out->v6.sin6_addr) != 1) {
		printf("BAD-ADDRESS\n");
		exit(2);
	}
	return sizeof(out->v6);
}

static void show(const union address *address)
{
	char text[64];

	if (address->any.sa_family == AF_INET) {
		inet_ntop(AF_INET, &address->v4.sin_addr, text, sizeof(text));
		printf("%s %d\n", text, ntohs(address->v4.sin_port));
	} else {
		inet_ntop(AF_INET6, &address->v6.sin6_addr, text, sizeof(text));
		printf("%s %d\n", text, ntohs(address->v6.sin6_port));
	}
}

static void answer(long result)
{
	if (result < 0)
		printf("%s\n", strerrorname_np(errno));
	else
		printf("%ld\n", result);
}

static void option(int fd, int level, int name, int value)
{
	answer(setsockopt(fd, level, name, &value, sizeof(value)));
}

/* One IORING_OP_CONNECT; the result as connect would give it. */
static long uring_connect(int fd, const union address *to, socklen_t length)
{
	struct io_uring_params params = {};
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	char *sq, *cq;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqe;

	if (ring < 0)
		return -1;
	sq = mmap(0, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		  IORING_OFF_SQ_RING);
	cq = mmap(0, params.cq_off.cqes + params.cq_entries * sizeof(*cqe), PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
	sqes = mmap(0, params.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		    IORING_OFF_SQES);
	memset(sqes, 0, sizeof(*sqes));
	sqes->opcode = IORING_OP_CONNECT;
	sqes->fd = fd;
	sqes->addr = (unsigned long)to;
	sqes->off = length;
	((unsigned *)(sq + params.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
		return -1;
	cqe = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	errno = cqe->res < 0 ? -cqe->res : 0;
	close(ring);
	return cqe->res < 0 ? -1 : 0;
}

static void run(char *line)
{
	char verb[32] = "", a[256] = "", b[256] = "", c[256] = "";
	union address address = {};
	socklen_t length = sizeof(address);
	int fd;

	sscanf(line, "%31s %255s %255s %255s", verb, a, b, c);
	fd = atoi(a);
	if (!strcmp(verb, "socket")) {
		/* socket 4|6 [mptcp] */
		answer(socket(*a == '4' ? AF_INET : AF_INET6, SOCK_STREAM, *b ? IPPROTO_MPTCP : 0));
	} else if (!strcmp(verb, "connect")) {
		length = parse(b, atoi(c), &address);
		answer(connect(fd, &address.any, length));
	} else if (!strcmp(verb, "uring")) {
		length = parse(b, atoi(c), &address);
		answer(uring_connect(fd, &address, length));
	} else if (!strcmp(verb, "fastopen")) {
		length = parse(b, atoi(c), &address);
		answer(sendto(fd, "fast", 4, MSG_FASTOPEN, &address.any, length));
	} else if (!strcmp(verb, "unspec")) {
		address.any.sa_family = AF_UNSPEC;
		answer(connect(fd, &address.any, sizeof(address.any)));
	} else if (!strcmp(verb, "bind")) {
		length = parse(b, atoi(c), &address);
		answer(bind(fd, &address.any, length));
	} else if (!strcmp(verb, "listen")) {
		answer(listen(fd, *b ? atoi(b) : 128));
	} else if (!strcmp(verb, "accept")) {
		/* descriptor, then the address of accept() itself */
		int got = accept(fd, &address.any, &length);

		if (got < 0) {
			answer(-1);
		} else {
			printf("%d ", got);
			show(&address);
		}
	} else if (!strcmp(verb, "peer") || !strcmp(verb, "name")) {
		long result = *verb == 'p' ? getpeername(fd, &address.any, &length) : getsockname(fd, &address.any, &length);

		if (result < 0)
			answer(result);
		else
			show(&address);
	} else if (!strcmp(verb, "opt")) {
		/* opt FD NAME VALUE */
		if (!strcmp(b, "reuseaddr"))
			option(fd, SOL_SOCKET, SO_REUSEADDR, atoi(c));
		else if (!strcmp(b, "reuseport"))
			option(fd, SOL_SOCKET, SO_REUSEPORT, atoi(c));
		else if (!strcmp(b, "mark"))
			option(fd, SOL_SOCKET, SO_MARK, atoi(c));
		else if (!strcmp(b, "v6only"))
			option(fd, IPPROTO_IPV6, IPV6_V6ONLY, atoi(c));
		else if (!strcmp(b, "rcvtimeo")) {
			struct timeval wait = { .tv_sec = atoi(c) };

			answer(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)));
		} else if (!strcmp(b, "device"))
			answer(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, c, strlen(c)));
		else if (!strcmp(b, "nonblock"))
			answer(fcntl(fd, F_SETFL, O_NONBLOCK));
		else
			printf("BAD-OPTION\n");
	} else if (!strcmp(verb, "send")) {
		answer(send(fd, b, strlen(b), MSG_NOSIGNAL));
	} else if (!strcmp(verb, "recv")) {
		char data[4096];
		long got = recv(fd, data, sizeof(data) - 1, 0);

		if (got < 0) {
			answer(got);
		} else {
			data[got] = 0;
			printf("=%s\n", data);
		}
	} else if (!strcmp(verb, "error")) {
		int error = 0;
		struct pollfd wait = { .fd = fd, .events = POLLOUT };

		/* error FD MS: waits for a connect to end */
		if (poll(&wait, 1, atoi(b)) == 0) {
			printf("PENDING\n");
		} else {
			length = sizeof(error);
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
			printf("%s\n", error ? strerrorname_np(error) : "0");
		}
	} else if (!strcmp(verb, "shutdown")) {
		answer(shutdown(fd, SHUT_RDWR));
	} else if (!strcmp(verb, "close")) {
		answer(close(fd));
	} else if (!strcmp(verb, "many")) {
		/* many COUNT IP PORT: opens connections and keeps them; how many came about */
		int count = fd, made = 0;

		length = parse(b, atoi(c), &address);
		for (int i = 0; i < count; i++) {
			int one = socket(address.any.sa_family, SOCK_STREAM, 0);

			if (connect(one, &address.any, length) < 0)
				break;
			made++;
		}
		printf("%d\n", made);
	} else {
		printf("BAD-VERB\n");
	}
}

int main(void)
{
	char line[1024];

	setvbuf(stdout, 0, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin))
		run(line);
	return 0;
}
