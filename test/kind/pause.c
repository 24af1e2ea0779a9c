// SPDX-License-Identifier: Apache-2.0
// The first process of a node, of the control plane's machine and of each pod's sandbox: waits, takes the exit
// status of orphans, and ends when it is told to.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) {
    (void)signal;
    _exit(0);
}

static void reap(int signal) {
    (void)signal;
    while (waitpid(-1, 0, WNOHANG) > 0) {
    }
}

int main(void) {
    struct sigaction ending = {.sa_handler = end};
    struct sigaction reaping = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
    sigaction(SIGTERM, &ending, 0);
    sigaction(SIGINT, &ending, 0);
    sigaction(SIGCHLD, &reaping, 0);
    reap(SIGCHLD); // those that ended before there was a handler
    for (;;) pause();
}
