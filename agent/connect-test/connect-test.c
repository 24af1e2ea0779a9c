// SPDX-License-Identifier: Apache-2.0
// Connects from pods as their applications do, to see whether that comes to the agent: enters a cgroup below the pods',
// then each network namespace of its descriptors from 3 on, and dials a test address there (RFC 5737, RFC 3849). Writes
// a line per namespace: ok, or the error. Ends with 2 when it cannot test at all.
//   connect-test CGROUP FAMILY...     (CGROUP: - if it is in one already; FAMILY: 4 or 6, one for each descriptor)

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_FD = 3, PORT = 9, PATIENCE_MS = 1500, PODS_MAX = 1024 };

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  return 2;
}

static int enter_cgroup(const char *folder) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s/cgroup.procs", folder) >= (int)sizeof path) return -1;
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t written = write(fd, "0", 1);
  close(fd);
  return written == 1 ? 0 : -1;
}

/** A socket on its way, or minus the error. */
static int dial(int netns, int family) {
  if (setns(netns, CLONE_NEWNET) < 0) return -errno;
  int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  // It ends with a reset: nothing of it lingers in the pod.
  struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  struct sockaddr_in six_not = {.sin_family = AF_INET, .sin_port = htons(PORT)};
  struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
  inet_pton(AF_INET, "192.0.2.1", &six_not.sin_addr);
  inet_pton(AF_INET6, "2001:db8::1", &six.sin6_addr);
  int done = family == AF_INET ? connect(fd, (struct sockaddr *)&six_not, sizeof six_not)
                               : connect(fd, (struct sockaddr *)&six, sizeof six);
  if (done == 0 || errno == EINPROGRESS) return fd;
  int error = errno;
  close(fd);
  return -error;
}

static long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int main(int argc, char **argv) {
  static struct pollfd waiting[PODS_MAX];
  int count = argc - 2;
  if (count < 1 || count > PODS_MAX) {
    fputs("usage: connect-test CGROUP FAMILY...\n", stderr);
    return 2;
  }
  if (strcmp(argv[1], "-") != 0 && enter_cgroup(argv[1]) < 0) return fail(argv[1]);
  for (int i = 0; i < count; i++) {
    int fd = dial(FIRST_FD + i, strcmp(argv[2 + i], "6") == 0 ? AF_INET6 : AF_INET);
    waiting[i] = (struct pollfd){.fd = fd, .events = POLLOUT};
  }
  // Those that are there are taken out of the wait; poll leaves alone what is below zero.
  long end = now_ms() + PATIENCE_MS;
  const char *said[PODS_MAX];
  int left = 0;
  for (int i = 0; i < count; i++) {
    said[i] = waiting[i].fd < 0 ? strerrorname_np(-waiting[i].fd) : NULL;
    left += said[i] == NULL;
  }
  for (long wait; left > 0 && (wait = end - now_ms()) > 0;) {
    if (poll(waiting, (nfds_t)count, (int)wait) < 0 && errno != EINTR) return fail("poll");
    for (int i = 0; i < count; i++) {
      if (said[i] || !waiting[i].revents) continue;
      int error = 0;
      socklen_t length = sizeof error;
      getsockopt(waiting[i].fd, SOL_SOCKET, SO_ERROR, &error, &length);
      said[i] = error ? strerrorname_np(error) : "ok";
      close(waiting[i].fd);
      waiting[i].fd = -1;
      left--;
    }
  }
  for (int i = 0; i < count; i++) puts(said[i] ? said[i] : "ETIMEDOUT");
  return 0;
}
