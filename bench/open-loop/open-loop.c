// SPDX-License-Identifier: Apache-2.0
// An open loop of HTTP/1.1 requests: they begin at random instants (a Poisson process) that do not depend on answers.
// One that finds no free connection waits, and its time counts from when it should have begun, so a stall of the
// proxy is felt by every request that falls into it.
//
//   open-loop ADDRESS PORT REQUESTS_PER_SECOND SECONDS CONNECTIONS
//
// Prints "N answered, N failed, S s", then every latency in microseconds in one line. Failed are answers other than
// 200, and what is open or waiting two seconds after the last beginning. A lost connection ends it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES 4096
#define EVENTS 64
static const int64_t SECOND = 1000000000;
static const int64_t LINGER = 2 * SECOND;

struct connection {
  int fd;
  size_t used;
  int64_t due; // when its request should have begun; 0: free
  char buffer[BUFFER_BYTES];
};

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * SECOND + now.tv_nsec;
}

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "open-loop: %s: %s\n", what, errno ? strerror(errno) : "protocol");
  exit(1);
}

// xorshift64*, with a fixed seed: every contestant gets the same instants.
static double uniform(void) {
  static uint64_t state = 88172645463325252u;
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return ((state * 2685821657736338717u >> 11) + 0.5) / 9007199254740992.0;
}

static int dial(const char *address, int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  if (inet_pton(AF_INET, address, &to.sin_addr) != 1) fail(address);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) fail("connect");
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

// 0: not complete; else its status.
static int response(struct connection *c) {
  c->buffer[c->used] = 0;
  char *end = strstr(c->buffer, "\r\n\r\n");
  if (end == NULL) return 0;
  char *length = strcasestr(c->buffer, "\r\ncontent-length:");
  if (length == NULL || length > end) fail("an answer without a length");
  size_t size = (size_t)(end + 4 - c->buffer) + strtoul(length + 17, NULL, 10);
  if (c->used < size) return 0;
  if (c->used > size) fail("bytes after the answer");
  c->used = 0;
  return atoi(c->buffer + sizeof "HTTP/1.1");
}

int main(int argc, char **argv) {
  if (argc != 6) {
    fprintf(stderr, "open-loop ADDRESS PORT REQUESTS_PER_SECOND SECONDS CONNECTIONS\n");
    return 2;
  }
  double rate = atof(argv[3]);
  double seconds = atof(argv[4]);
  int connections = atoi(argv[5]);
  size_t planned = (size_t)(rate * seconds);
  if (planned == 0 || connections < 1) return 2;

  // Every instant beforehand; the queue of requests that wait is then the part of this list that is due.
  int64_t *due = malloc(planned * sizeof *due);
  uint32_t *latencies = malloc(planned * sizeof *latencies);
  struct connection *all = calloc((size_t)connections, sizeof *all);
  struct connection **spare = malloc((size_t)connections * sizeof *spare);
  if (!due || !latencies || !all || !spare) fail("memory");
  char request[256];
  int request_bytes = snprintf(request, sizeof request, "GET / HTTP/1.1\r\nHost: %s:%s\r\n\r\n", argv[1], argv[2]);

  int poll = epoll_create1(EPOLL_CLOEXEC);
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN};
  if (poll < 0 || timer < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, timer, &event) != 0) fail("epoll");
  for (int i = 0; i < connections; i++) {
    all[i].fd = dial(argv[1], atoi(argv[2]));
    event.data.ptr = spare[i] = &all[i];
    if (epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &event) != 0) fail("epoll");
  }

  int64_t begin = now_ns() + SECOND / 100;
  double at = 0;
  for (size_t i = 0; i < planned; i++) {
    at -= log(uniform()) / rate;
    due[i] = begin + (int64_t)(at * (double)SECOND);
  }
  int64_t limit = due[planned - 1] + LINGER;
  size_t next = 0, answered = 0, refused = 0;
  int free_count = connections;
  int64_t now = now_ns();
  while (answered + refused < planned && now < limit) {
    while (next < planned && due[next] <= now && free_count > 0) {
      struct connection *c = spare[--free_count];
      c->due = due[next++];
      if (write(c->fd, request, (size_t)request_bytes) != request_bytes) fail("write");
    }
    int64_t wake = next < planned && free_count > 0 ? due[next] : limit;
    struct itimerspec spec = {.it_value = {wake / SECOND, wake % SECOND}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poll, events, EVENTS, -1);
    if (count < 0 && errno != EINTR) fail("epoll_wait");
    now = now_ns();
    for (int i = 0; i < count; i++) {
      struct connection *c = events[i].data.ptr;
      if (c == NULL) {
        uint64_t expired;
        if (read(timer, &expired, sizeof expired) < 0 && errno != EAGAIN) fail("timer");
        continue;
      }
      errno = 0;
      ssize_t got = read(c->fd, c->buffer + c->used, BUFFER_BYTES - 1 - c->used);
      if (got <= 0 || c->due == 0) fail("a connection was lost");
      c->used += (size_t)got;
      int status = response(c);
      if (status == 0) continue;
      if (status == 200) latencies[answered++] = (uint32_t)((now - c->due) / 1000);
      else refused++;
      c->due = 0;
      spare[free_count++] = c;
    }
  }
  printf("%zu answered, %zu failed, %.3f s\n", answered, planned - answered, (double)(now - begin) / (double)SECOND);
  for (size_t i = 0; i < answered; i++) printf("%u ", latencies[i]);
  putchar('\n');
  return 0;
}
