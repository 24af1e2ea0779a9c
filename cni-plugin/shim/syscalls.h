// SPDX-License-Identifier: Apache-2.0
// The few system calls of the CNI shim, made directly so that the static binary needs no C library and stays
// small. Not a libc: only what nodemesh-cni.c uses, for Linux on x86_64 and aarch64. Results are those of the
// kernel: a negative errno, not -1.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
enum { NR_READ = 0, NR_WRITE = 1, NR_CLOSE = 3, NR_CLOCK_GETTIME = 228, NR_EXIT_GROUP = 231 };
enum { NR_SOCKET = 41, NR_CONNECT = 42, NR_SENDTO = 44, NR_RECVFROM = 45, NR_SETSOCKOPT = 54 };
enum { NR_OPENAT = 257, NR_MKDIRAT = 258, NR_PPOLL = 271, NR_CLOCK_NANOSLEEP = 230 };
enum { NR_GETSOCKOPT = 55, NR_GETDENTS64 = 217, NR_UNLINKAT = 263 };

static long syscall6(long nr, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

__asm__(".globl _start\n"
        "_start:\n"
        "  xor %ebp, %ebp\n"
        "  mov %rsp, %rdi\n"
        "  and $-16, %rsp\n"
        "  call shim_start\n");

#elif defined(__aarch64__)
enum { NR_READ = 63, NR_WRITE = 64, NR_CLOSE = 57, NR_CLOCK_GETTIME = 113, NR_EXIT_GROUP = 94 };
enum { NR_SOCKET = 198, NR_CONNECT = 203, NR_SENDTO = 206, NR_RECVFROM = 207, NR_SETSOCKOPT = 208 };
enum { NR_OPENAT = 56, NR_MKDIRAT = 34, NR_PPOLL = 73, NR_CLOCK_NANOSLEEP = 115 };
enum { NR_GETSOCKOPT = 209, NR_GETDENTS64 = 61, NR_UNLINKAT = 35 };

static long syscall6(long nr, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = nr;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}

__asm__(".globl _start\n"
        "_start:\n"
        "  mov x29, #0\n"
        "  mov x30, #0\n"
        "  mov x0, sp\n"
        "  and sp, x0, #-16\n"
        "  bl shim_start\n");

#else
#error "the shim is made for x86_64 and aarch64"
#endif

enum { E_INTR = 4, E_AGAIN = 11, E_NOENT = 2, E_CONNREFUSED = 111 };
enum { AT_FDCWD_ = -100, O_RDONLY_ = 0, O_WRONLY_ = 1, O_CREAT_ = 0100, O_TRUNC_ = 01000, O_CLOEXEC_ = 02000000 };
enum { AF_UNIX_ = 1, SOCK_STREAM_ = 1, SOCK_CLOEXEC_ = 02000000 };
enum { SOL_SOCKET_ = 1, SO_PEERCRED_ = 17, SO_SNDTIMEO_ = 21, MSG_DONTWAIT_ = 0x40, MSG_NOSIGNAL_ = 0x4000 };
enum { POLLIN_ = 1, POLLOUT_ = 4, CLOCK_MONOTONIC_ = 1 };

struct kernel_time {
  int64_t seconds;
  int64_t nanoseconds;
};
struct poll_fd {
  int fd;
  short events;
  short revents;
};
struct unix_address {
  uint16_t family;
  char path[108];
};

// The compiler may call these whatever the flags say. The empty asm keeps it from turning a loop into a call of itself.
void *memcpy(void *to, const void *from, size_t length) {
  for (size_t i = 0; i < length; i++) {
    ((char *)to)[i] = ((const char *)from)[i];
    __asm__ volatile("" ::: "memory");
  }
  return to;
}
void *memset(void *to, int byte, size_t length) {
  for (size_t i = 0; i < length; i++) {
    ((char *)to)[i] = (char)byte;
    __asm__ volatile("" ::: "memory");
  }
  return to;
}
int memcmp(const void *a, const void *b, size_t length) {
  for (size_t i = 0; i < length; i++) {
    int difference = ((const unsigned char *)a)[i] - ((const unsigned char *)b)[i];
    if (difference != 0) return difference;
  }
  return 0;
}
size_t strlen(const char *text) {
  size_t length = 0;
  while (text[length] != 0) {
    length++;
    __asm__ volatile("" ::: "memory");
  }
  return length;
}

static long sys_read(int fd, void *to, size_t length) { return syscall6(NR_READ, fd, (long)to, (long)length, 0, 0, 0); }
static long sys_write(int fd, const void *from, size_t length) {
  return syscall6(NR_WRITE, fd, (long)from, (long)length, 0, 0, 0);
}
static long sys_close(int fd) { return syscall6(NR_CLOSE, fd, 0, 0, 0, 0, 0); }
static long sys_open(const char *path, int flags, int mode) {
  return syscall6(NR_OPENAT, AT_FDCWD_, (long)path, flags | O_CLOEXEC_, mode, 0, 0);
}
static long sys_mkdir(const char *path, int mode) {
  return syscall6(NR_MKDIRAT, AT_FDCWD_, (long)path, mode, 0, 0, 0);
}
static long sys_unlink(const char *path) { return syscall6(NR_UNLINKAT, AT_FDCWD_, (long)path, 0, 0, 0, 0); }
static long sys_entries(int fd, char *to, size_t size) {
  return syscall6(NR_GETDENTS64, fd, (long)to, (long)size, 0, 0, 0);
}
static long sys_socket(void) { return syscall6(NR_SOCKET, AF_UNIX_, SOCK_STREAM_ | SOCK_CLOEXEC_, 0, 0, 0, 0); }
static long sys_connect(int fd, const struct unix_address *to) {
  return syscall6(NR_CONNECT, fd, (long)to, sizeof *to, 0, 0, 0);
}
static long sys_send(int fd, const void *from, size_t length) {
  return syscall6(NR_SENDTO, fd, (long)from, (long)length, MSG_DONTWAIT_ | MSG_NOSIGNAL_, 0, 0);
}
static long sys_recv(int fd, void *to, size_t length) {
  return syscall6(NR_RECVFROM, fd, (long)to, (long)length, MSG_DONTWAIT_, 0, 0);
}
/** The uid of whoever listens on the other side; -1 if it cannot be had. */
static long sys_peer_uid(int fd) {
  uint32_t credentials[3] = {0, 0, 0};  // struct ucred: pid, uid, gid
  uint32_t length = sizeof credentials;
  long answer = syscall6(NR_GETSOCKOPT, fd, SOL_SOCKET_, SO_PEERCRED_, (long)credentials, (long)&length, 0);
  return answer < 0 ? -1 : (long)credentials[1];
}
/** How long `connect` may block while the agent's backlog is full. */
static long sys_connect_timeout(int fd, int64_t ms) {
  struct kernel_time limit = {ms / 1000, (ms % 1000) * 1000};  // a timeval: microseconds
  return syscall6(NR_SETSOCKOPT, fd, SOL_SOCKET_, SO_SNDTIMEO_, (long)&limit, sizeof limit, 0);
}
static long sys_poll(int fd, short events, int64_t ms) {
  struct poll_fd entry = {fd, events, 0};
  struct kernel_time limit = {ms / 1000, (ms % 1000) * 1000000};
  return syscall6(NR_PPOLL, (long)&entry, 1, (long)&limit, 0, 0, 0);
}
static int64_t now_ms(void) {
  struct kernel_time now = {0, 0};
  syscall6(NR_CLOCK_GETTIME, CLOCK_MONOTONIC_, (long)&now, 0, 0, 0, 0);
  return now.seconds * 1000 + now.nanoseconds / 1000000;
}
static void sleep_ms(int64_t ms) {
  struct kernel_time span = {ms / 1000, (ms % 1000) * 1000000};
  syscall6(NR_CLOCK_NANOSLEEP, CLOCK_MONOTONIC_, 0, (long)&span, 0, 0, 0);
}
_Noreturn static void sys_exit(int code) {
  for (;;) syscall6(NR_EXIT_GROUP, code, 0, 0, 0, 0, 0);
}
