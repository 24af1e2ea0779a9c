// SPDX-License-Identifier: Apache-2.0
// The first process of the agent's container: runs the program of its arguments and starts it again when it crashes, at
// once, where the kubelet would let a node wait 10, 20, 40 s. Passes signals on, reaps orphans, ends with the program
// when that was asked to end or ended by itself with success. Not a supervisor: one program, no settings.

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  /** A life shorter than this counts as a crash at the start: the pause before the next one grows. */
  STEADY_MS = 10000,
  PAUSE_FIRST_MS = 100,
  PAUSE_MAX_MS = 5000,
  STARTS_SHOWN_MAX = 99999999,
  /** What a shell says of a program that it cannot execute: trying again would not help. */
  NOT_EXECUTABLE = 127,
};

static const int passed_on[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void say(const char *level, const char *message, int status, int64_t lived_ms, int64_t pause_ms) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  dprintf(2,
          "{\"level\":\"%s\",\"time\":%lld,\"program\":\"agent-parent\",\"%s\":%d,\"livedMs\":%lld,\"pauseMs\":%lld,"
          "\"msg\":\"%s\"}\n",
          level, (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000, WIFSIGNALED(status) ? "signal" : "code",
          WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), (long long)lived_ms, (long long)pause_ms,
          message);
}

static pid_t start(char **argv, const sigset_t *inherited) {
  pid_t parent = getpid(), child = fork();
  if (child != 0) return child;
  // It shall not outlive its parent, not even one that is killed; the parent may be dead already.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  sigprocmask(SIG_SETMASK, inherited, NULL);
  execvp(argv[0], argv);
  dprintf(2, "agent-parent: %s: %s\n", argv[0], strerror(errno));
  _exit(NOT_EXECUTABLE);
}

/** The process is named after how often it has started its program, for ps and whoever watches. */
static void show_starts(int starts) {
  char name[16];
  snprintf(name, sizeof name, "parent:%d", starts > STARTS_SHOWN_MAX ? STARTS_SHOWN_MAX : starts);
  prctl(PR_SET_NAME, name);
}

static int exit_code(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

int main(int argc, char **argv) {
  if (argc < 2) {
    fputs("usage: agent-parent PROGRAM [ARGUMENT...]\n", stderr);
    return 2;
  }
  // Blocked signals are waited for below: none is lost, none interrupts.
  sigset_t wanted, inherited;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGCHLD);
  for (size_t i = 0; i < sizeof passed_on / sizeof passed_on[0]; i++) sigaddset(&wanted, passed_on[i]);
  sigprocmask(SIG_BLOCK, &wanted, &inherited);

  bool ending = false;
  pid_t child = -1;
  int starts = 0;
  int64_t begun = 0, pause = 0, start_at = now_ms();
  for (;;) {
    int64_t now = now_ms();
    if (child < 0 && now >= start_at) {
      begun = now;
      child = start(argv + 1, &inherited);
      if (child > 0) show_starts(++starts);
      if (child < 0) start_at = now + PAUSE_MAX_MS; // no room for a process
    }
    struct timespec wait = {0};
    if (child < 0 && start_at > now) {
      wait.tv_sec = (start_at - now) / 1000;
      wait.tv_nsec = (start_at - now) % 1000 * 1000000;
    }
    int signal = child < 0 ? sigtimedwait(&wanted, NULL, &wait) : sigwaitinfo(&wanted, NULL);
    if (signal < 0) continue; // the pause is over, or a signal that nobody asked for
    if (signal != SIGCHLD) {
      bool to_end = signal == SIGTERM || signal == SIGINT;
      if (child < 0 && to_end) return 128 + signal;
      if (child > 0) kill(child, signal);
      ending = ending || to_end;
      continue;
    }
    int status;
    for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (ended != child) continue; // an orphan that came to us as process 1
      child = -1;
      if (ending || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) return exit_code(status);
      int64_t lived = now_ms() - begun;
      if (lived >= STEADY_MS) pause = 0;
      if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_EXECUTABLE) return NOT_EXECUTABLE;
      say("error", "the agent ended; it is started again", status, lived, pause);
      start_at = now_ms() + pause;
      pause = pause == 0 ? PAUSE_FIRST_MS : pause * 2 > PAUSE_MAX_MS ? PAUSE_MAX_MS : pause * 2;
    }
  }
}
