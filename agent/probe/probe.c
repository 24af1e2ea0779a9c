// SPDX-License-Identifier: Apache-2.0
// What the kubelet executes to see whether the agent lives and is ready: asks on its socket and shows the answer. Ends
// with 0 if that is 200. A program of its own, because starting Node.js for each probe would cost more than the agent.
//   probe SOCKET PATH

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { PATIENCE_S = 4 };

static int fail(const char *what) {
  printf("%s: %s\n", what, strerror(errno));
  return 1;
}

int main(int argc, char **argv) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path) {
    fputs("usage: probe SOCKET PATH\n", stderr);
    return 2;
  }
  memcpy(address.sun_path, argv[1], strlen(argv[1]) + 1);
  char request[512], answer[2048];
  int length = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: agent\r\n\r\n", argv[2]);
  if (length >= (int)sizeof request) {
    fputs("the path is too long\n", stderr);
    return 2;
  }
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail("socket");
  struct timeval patience = {.tv_sec = PATIENCE_S};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) return fail(argv[1]);
  if (send(fd, request, (size_t)length, MSG_NOSIGNAL) != length) return fail("send");
  size_t filled = 0;
  for (ssize_t got; filled < sizeof answer - 1; filled += (size_t)got) {
    got = read(fd, answer + filled, sizeof answer - 1 - filled);
    if (got < 0) return fail("no answer");
    if (got == 0) break;
  }
  answer[filled] = 0;
  const char *body = strstr(answer, "\r\n\r\n");
  fputs(body ? body + 4 : answer, stdout);
  return strncmp(answer, "HTTP/1.", 7) == 0 && strncmp(answer + 8, " 200", 4) == 0 ? 0 : 1;
}
