// SPDX-License-Identifier: Apache-2.0
// Holds duplicates of listening sockets and one sealed memfd while the agents that made them come and go. Knows nothing
// of what the keys, the opaque bytes or the memfd mean. One thread, no allocation after the start, and nothing that a
// client does may block or end it. The protocol is frozen: docs/reference/keeper-protocol.md has it byte by byte.
//
// Whoever is the holder says so with beats. Without one for the limit, every kept listener is shut down (duplicates
// elsewhere would keep a merely closed one open), closed and forgotten, the memfd too: clients are refused, none hang.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
  VERSION = 1,
  ENTRIES_MAX = 20000,
  /** Descriptors for ourselves: clients, their greetings, the memfd, the log, what arrives and is refused. */
  RESERVE = 32,
  KEY_BYTES_MAX = 255,
  META_BYTES_MAX = 1024,
  BLOB_BYTES_MAX = 64 << 20,
  CLIENTS_MAX = 8,
  /** Entries of a LIST that one client is sent before the others have their turn. */
  LIST_AT_ONCE = 128,
  /** A client that takes nothing of its LIST for so long, or does not greet, is dropped. */
  PATIENCE_MS = 5000,
  /** Wakes at least so often, to know by its own lateness that it was held up. */
  WAKE_MS = 1000,
  LATE_MS = 500,
  /** Refusals that are logged: one a second, with the number of those in between. */
  REFUSAL_LOG_MS = 1000,
};

enum request { HELLO = 1, PUT, DEL, LIST, BLOB, HOLD, BEAT, STATS };
enum reply { OK = 128, REFUSED, ENTRY, BLOB_IS, END, ROLE, STATS_ARE };
enum role { NOBODY = 0, HOLDER = 1, OTHER = 2 };
enum reason {
  NO_REASON,
  BAD_MESSAGE,
  BAD_VERSION,
  NO_GREETING,
  BAD_KEY,
  BAD_META,
  NO_DESCRIPTOR,
  NOT_A_LISTENER,
  NOT_SEALED,
  BLOB_TOO_LONG,
  ENTRIES_FULL,
  CLIENTS_FULL,
  FOREIGN_UID,
  REASONS
};
static const char *const reasons[REASONS] = {
    "",
    "bad message",
    "unknown version",
    "no HELLO before",
    "key too long or empty",
    "meta too long",
    "no descriptor, or one too many",
    "not a listening socket",
    "not a sealed memfd",
    "blob too long",
    "no room for another entry",
    "no room for another client",
    "foreign uid",
};

struct header {
  uint16_t type;
  uint16_t key_bytes;
  uint32_t number;
};
_Static_assert(sizeof(struct header) == 8, "the header is part of the protocol");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the protocol is little endian");

struct entry {
  int fd; // -1: free
  uint16_t key_bytes, meta_bytes;
  uint8_t bytes[KEY_BYTES_MAX + META_BYTES_MAX];
};

struct client {
  int fd; // -1: free
  int pid;
  bool greeted, listing, blob_sent;
  /** While listing: the entry that comes next, and how many were sent. */
  int next, sent;
  int64_t deadline;
};

static struct entry entries[ENTRIES_MAX];
static uint32_t hashes[ENTRIES_MAX]; // beside the entries, so that a search touches little memory
static int entries_max = ENTRIES_MAX, entries_used, entries_high;
static struct client clients[CLIENTS_MAX];
static struct client *holder;
static int blob = -1, listener = -1, signals = -1;
static uint64_t blob_bytes, shutdowns, refused, dropped;
static int64_t started, alive_at, limit_ms, refusal_logged;
static uint64_t refused_unlogged;
static uid_t wanted_uid;

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// --- log ---------------------------------------------------------------------------------------------------------

/** One line of JSON. `fields` must be JSON already, beginning with a comma. A reader that stalls loses lines. */
__attribute__((format(printf, 3, 4))) static void say(const char *level, const char *message, const char *fields, ...) {
  char text[1024];
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  int length = snprintf(text, sizeof text, "{\"level\":\"%s\",\"time\":%lld,\"msg\":\"%s\"", level,
                        (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000, message);
  va_list list;
  va_start(list, fields);
  length += vsnprintf(text + length, sizeof text - (size_t)length - 3, fields, list);
  va_end(list);
  if (length > (int)sizeof text - 4) return; // never half a line
  memcpy(text + length, "}\n", 2);
  struct pollfd ready = {.fd = 2, .events = POLLOUT};
  if (poll(&ready, 1, 0) != 1 || !(ready.revents & POLLOUT)) return;
  if (write(2, text, (size_t)length + 2) < 0) return; // there is nobody to tell
}

static void quote(const char *from, char *to, size_t size) {
  size_t at = 0;
  for (; *from && at + 2 < size; from++) {
    if (*from == '"' || *from == '\\') to[at++] = '\\';
    to[at++] = (unsigned char)*from < ' ' ? '?' : *from;
  }
  to[at] = 0;
}

_Noreturn static void give_up(const char *what, const char *path) {
  int cause = errno;
  char quoted[256];
  quote(path, quoted, sizeof quoted);
  say("error", what, ",\"path\":\"%s\",\"error\":\"%s\"", quoted, strerror(cause));
  exit(1);
}

// --- messages ----------------------------------------------------------------------------------------------------

/** 0, or -errno; never waits. */
static int send_message(int to, enum reply type, uint32_t number, const void *key, uint16_t key_bytes, const void *rest,
                        size_t rest_bytes, int fd) {
  struct header header = {.type = (uint16_t)type, .key_bytes = key_bytes, .number = number};
  struct iovec parts[3] = {
      {.iov_base = &header, .iov_len = sizeof header},
      {.iov_base = (void *)key, .iov_len = key_bytes},
      {.iov_base = (void *)rest, .iov_len = rest_bytes},
  };
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr alignment;
  } control = {0};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
  if (fd >= 0) {
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  return sendmsg(to, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void end_client(struct client *client) {
  if (holder == client) say("info", "the holder's connection ended", ",\"pid\":%d", client->pid);
  if (holder == client) holder = NULL;
  close(client->fd);
  client->fd = -1;
}

static void drop_client(struct client *client, const char *why) {
  dropped++;
  say("warn", "a client is dropped", ",\"pid\":%d,\"why\":\"%s\"", client->pid, why);
  end_client(client);
}

static void answer(struct client *client, enum reply type, uint32_t number, const void *rest, size_t rest_bytes) {
  int result = send_message(client->fd, type, number, NULL, 0, rest, rest_bytes, -1);
  if (result == -EAGAIN) drop_client(client, "it does not read its answers");
  else if (result < 0) end_client(client);
}

static void note_refusal(enum reason why, int pid) {
  refused++;
  refused_unlogged++;
  int64_t now = now_ms();
  if (now - refusal_logged < REFUSAL_LOG_MS) return;
  refusal_logged = now;
  say("warn", "refused", ",\"pid\":%d,\"reason\":\"%s\",\"refusals\":%llu", pid, reasons[why],
      (unsigned long long)refused_unlogged);
  refused_unlogged = 0;
}

static void refuse(struct client *client, enum reason why) {
  note_refusal(why, client->pid);
  answer(client, REFUSED, why, reasons[why], strlen(reasons[why]));
}

// --- entries -----------------------------------------------------------------------------------------------------

static uint32_t hash_of(const uint8_t *key, size_t bytes) {
  uint32_t hash = 2166136261u; // FNV-1a
  for (size_t i = 0; i < bytes; i++) hash = (hash ^ key[i]) * 16777619u;
  return hash;
}

static void forget(int index) {
  close(entries[index].fd);
  entries[index].fd = -1;
  entries_used--;
  while (entries_high > 0 && entries[entries_high - 1].fd < 0) entries_high--;
}

/** Takes `fd` over, or says why not; then the entry of before stays. */
static enum reason put(const uint8_t *key, uint16_t key_bytes, const uint8_t *meta, uint16_t meta_bytes, int fd) {
  int listening = 0;
  socklen_t length = sizeof listening;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0 || !listening) return NOT_A_LISTENER;
  uint32_t hash = hash_of(key, key_bytes);
  int found = -1, hole = -1;
  for (int i = 0; i < entries_high && found < 0; i++) {
    if (entries[i].fd < 0) {
      if (hole < 0) hole = i;
    } else if (hashes[i] == hash && entries[i].key_bytes == key_bytes && !memcmp(entries[i].bytes, key, key_bytes)) {
      found = i;
    }
  }
  if (found < 0 && entries_used >= entries_max) return ENTRIES_FULL;
  if (found >= 0) {
    close(entries[found].fd);
  } else {
    if (entries_used++ == 0) alive_at = now_ms(); // the time of an empty keeper counts for nothing
    found = hole >= 0 ? hole : entries_high++;
  }
  struct entry *entry = &entries[found];
  hashes[found] = hash;
  entry->fd = fd;
  entry->key_bytes = key_bytes;
  entry->meta_bytes = meta_bytes;
  memcpy(entry->bytes, key, key_bytes);
  if (meta_bytes > 0) memcpy(entry->bytes + key_bytes, meta, meta_bytes);
  return NO_REASON;
}

static uint32_t del(const uint8_t *prefix, uint16_t bytes) {
  uint32_t count = 0;
  for (int i = entries_high - 1; i >= 0; i--) {
    if (entries[i].fd < 0 || entries[i].key_bytes < bytes || memcmp(entries[i].bytes, prefix, bytes)) continue;
    forget(i);
    count++;
  }
  return count;
}

static void drop_blob(void) {
  if (blob >= 0) close(blob);
  blob = -1;
  blob_bytes = 0;
}

/** Takes `fd` over, or says why not. Without the seals a client could change or cut what another reads. */
static enum reason set_blob(int fd) {
  int wanted = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE, seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & wanted) != wanted) return NOT_SEALED;
  struct stat status;
  if (fstat(fd, &status) < 0) return NOT_SEALED;
  if (status.st_size > BLOB_BYTES_MAX) return BLOB_TOO_LONG;
  drop_blob();
  blob = fd;
  blob_bytes = (uint64_t)status.st_size;
  if (entries_used == 0) alive_at = now_ms();
  return NO_REASON;
}

/** No beat came in time: everybody is refused from now on, nobody hangs. */
static void shut_down(void) {
  int count = 0;
  for (int i = entries_high - 1; i >= 0; i--) {
    if (entries[i].fd < 0) continue;
    shutdown(entries[i].fd, SHUT_RDWR);
    forget(i);
    count++;
  }
  shutdowns += (uint64_t)count;
  drop_blob();
  say("error", "no beat within the limit: the kept listeners are shut down",
      ",\"listeners\":%d,\"limitMs\":%lld,\"pid\":%d", count, (long long)limit_ms, holder ? holder->pid : 0);
  holder = NULL;
}

// --- clients -----------------------------------------------------------------------------------------------------

/** The next entries, then blob and end; stops where the client's buffer is full, and POLLOUT calls it again. */
static void go_on_listing(struct client *client) {
  for (int turn = 0; turn < LIST_AT_ONCE && client->listing; turn++) {
    while (client->next < entries_high && entries[client->next].fd < 0) client->next++;
    enum reply type = client->next < entries_high ? ENTRY : blob >= 0 && !client->blob_sent ? BLOB_IS : END;
    int result;
    if (type == ENTRY) {
      struct entry *entry = &entries[client->next];
      result = send_message(client->fd, type, 0, entry->bytes, entry->key_bytes, entry->bytes + entry->key_bytes,
                            entry->meta_bytes, entry->fd);
    } else if (type == BLOB_IS) {
      result = send_message(client->fd, type, (uint32_t)blob_bytes, NULL, 0, NULL, 0, blob);
    } else {
      result = send_message(client->fd, type, (uint32_t)client->sent, NULL, 0, NULL, 0, -1);
    }
    if (result == -EAGAIN) return;
    if (result < 0) return end_client(client);
    client->deadline = now_ms() + PATIENCE_MS;
    if (type == ENTRY) client->next++, client->sent++;
    else if (type == BLOB_IS) client->blob_sent = true;
    else client->listing = false;
  }
}

static void send_stats(struct client *client) {
  int64_t now = now_ms();
  uint64_t in_use = 0;
  for (int i = 0; i < CLIENTS_MAX; i++) in_use += clients[i].fd >= 0;
  uint64_t fields[] = {
      (uint64_t)entries_used, (uint64_t)entries_max, in_use,
      holder ? (uint64_t)(now - alive_at) : UINT64_MAX,
      (uint64_t)limit_ms,
      shutdowns,
      refused,
      dropped,
      blob_bytes,
      (uint64_t)(now - started),
  };
  answer(client, STATS_ARE, sizeof fields / sizeof fields[0], fields, sizeof fields);
}

/** `*fd` is the one descriptor that came, or -1; set to -1 by whoever keeps it. */
static void serve(struct client *client, const struct header *header, const uint8_t *body, size_t bytes, int *fd) {
  const uint8_t *meta = body + header->key_bytes;
  enum reason why = NO_REASON;
  if (!client->greeted && header->type != HELLO) return refuse(client, NO_GREETING);
  if (header->key_bytes > KEY_BYTES_MAX) return refuse(client, BAD_KEY);
  if (header->key_bytes > bytes) return refuse(client, BAD_MESSAGE);
  if ((*fd >= 0) != (header->type == PUT || header->type == BLOB)) return refuse(client, NO_DESCRIPTOR);
  bytes -= header->key_bytes;
  switch (header->type) {
    case HELLO:
      if (header->number != VERSION) return refuse(client, BAD_VERSION);
      client->greeted = true;
      return answer(client, OK, VERSION, NULL, 0);
    case PUT:
      if (header->key_bytes == 0) why = BAD_KEY;
      else if (bytes > META_BYTES_MAX) why = BAD_META;
      else why = put(body, header->key_bytes, meta, (uint16_t)bytes, *fd);
      break;
    case BLOB:
      why = set_blob(*fd);
      break;
    case DEL:
      return answer(client, OK, del(body, header->key_bytes), NULL, 0);
    case LIST:
      client->listing = true;
      client->blob_sent = false;
      client->next = client->sent = 0;
      client->deadline = now_ms() + PATIENCE_MS;
      return go_on_listing(client);
    case HOLD:
      if (holder != client) say("info", "a new holder", ",\"pid\":%d,\"entries\":%d", client->pid, entries_used);
      holder = client;
      alive_at = now_ms();
      return answer(client, OK, 0, NULL, 0);
    case BEAT:
      if (holder == client) alive_at = now_ms();
      return answer(client, ROLE, holder == client ? HOLDER : holder ? OTHER : NOBODY, NULL, 0);
    case STATS:
      return send_stats(client);
    default:
      why = BAD_MESSAGE;
  }
  if (why != NO_REASON) return refuse(client, why);
  *fd = -1;
  answer(client, OK, 0, NULL, 0);
}

static void receive(struct client *client) {
  // One byte more than the longest message, so that a longer one is told from it.
  uint8_t text[sizeof(struct header) + KEY_BYTES_MAX + META_BYTES_MAX + 1];
  union {
    char bytes[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr alignment;
  } control;
  struct iovec part = {.iov_base = text, .iov_len = sizeof text};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t bytes = recvmsg(client->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (bytes < 0) return end_client(client);
  int fd = -1, arrived = 0;
  for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one)) {
    if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + sizeof(int) <= one->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int came;
      memcpy(&came, CMSG_DATA(one) + at, sizeof came);
      if (arrived++ == 0) fd = came;
      else close(came);
    }
  }
  struct header header;
  if (bytes == 0 && arrived == 0) return end_client(client); // the end; an empty message looks the same
  if (bytes < (ssize_t)sizeof header || (message.msg_flags & MSG_TRUNC)) {
    refuse(client, BAD_MESSAGE);
  } else if (arrived > 1 || (message.msg_flags & MSG_CTRUNC)) {
    refuse(client, NO_DESCRIPTOR);
  } else {
    memcpy(&header, text, sizeof header);
    serve(client, &header, text + sizeof header, (size_t)bytes - sizeof header, &fd);
  }
  if (fd >= 0) close(fd);
}

static void take_client(void) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  struct ucred peer = {0};
  socklen_t length = sizeof peer;
  struct client *free = NULL;
  for (int i = 0; i < CLIENTS_MAX && !free; i++) free = clients[i].fd < 0 ? &clients[i] : NULL;
  enum reason why = NO_REASON;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 || peer.uid != wanted_uid) why = FOREIGN_UID;
  else if (!free) why = CLIENTS_FULL;
  if (why != NO_REASON) {
    note_refusal(why, peer.pid);
    send_message(fd, REFUSED, why, NULL, 0, reasons[why], strlen(reasons[why]), -1);
    close(fd);
    return;
  }
  *free = (struct client){.fd = fd, .pid = peer.pid, .deadline = now_ms() + PATIENCE_MS};
}

// --- the process -------------------------------------------------------------------------------------------------

static void init_limits(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) give_up("the descriptor limit cannot be read", "");
  rlim_t wanted = ENTRIES_MAX + RESERVE;
  limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
  if (setrlimit(RLIMIT_NOFILE, &limit) < 0) give_up("the descriptor limit cannot be set", "");
  errno = EMFILE;
  if (limit.rlim_cur <= RESERVE) give_up("the descriptor limit leaves no room", "");
  if (limit.rlim_cur < wanted) {
    entries_max = (int)limit.rlim_cur - RESERVE;
    say("warn", "the descriptor limit (RLIMIT_NOFILE) leaves room for fewer listeners",
        ",\"entriesMax\":%d,\"wanted\":%d", entries_max, ENTRIES_MAX);
  }
}

/** Binds `path`, unless a living keeper (the lock) or anybody else answers there. */
static void open_listener(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char lock[sizeof address.sun_path + 8];
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    give_up("the socket's path cannot be used", path);
  }
  strcpy(address.sun_path, path);
  snprintf(lock, sizeof lock, "%s.lock", path);
  umask(0177);
  int held = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600); // stays open as long as we live
  if (held < 0) give_up("the lock file cannot be opened", lock);
  bool taken = flock(held, LOCK_EX | LOCK_NB) < 0;
  int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) give_up("no socket can be made", path);
  if (connect(probe, (struct sockaddr *)&address, sizeof address) == 0) taken = true;
  else if (errno != ENOENT && errno != ECONNREFUSED) taken = true; // EAGAIN, EPROTOTYPE: somebody is there
  close(probe);
  if (taken) {
    errno = EADDRINUSE;
    give_up("another keeper answers there", path);
  }
  unlink(path);
  listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 16) < 0)
    give_up("the socket cannot be bound", path);
}

static void init_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0) give_up("signals cannot be waited for", "");
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
}

/**
 * Drops who is too slow; answers how long nothing will be due. When this process itself was held up (a paused machine,
 * SIGSTOP), so were others, and their beats lie unread: such time does not count.
 */
static int look_at_times(void) {
  static int64_t due_at = INT64_MAX;
  int64_t now = now_ms(), due = INT64_MAX, late = now > due_at ? now - due_at : 0;
  if (late > LATE_MS) {
    alive_at = alive_at + late < now ? alive_at + late : now;
    for (int i = 0; i < CLIENTS_MAX; i++) clients[i].deadline += late;
    say("warn", "the keeper was held up", ",\"ms\":%lld", (long long)late);
  }
  if (entries_used > 0 || blob >= 0) {
    if (now - alive_at >= limit_ms) shut_down();
    else due = alive_at + limit_ms;
  }
  for (int i = 0; i < CLIENTS_MAX; i++) {
    struct client *client = &clients[i];
    if (client->fd < 0 || (client->greeted && !client->listing)) continue;
    if (now >= client->deadline) drop_client(client, client->listing ? "it does not read its list" : "no HELLO");
    else if (client->deadline < due) due = client->deadline;
  }
  due_at = now + WAKE_MS < due ? now + WAKE_MS : due;
  return due_at > now ? (int)(due_at - now) : 0;
}

static long number(const char *text) {
  char *end;
  long value = strtol(text, &end, 10);
  return *text && !*end ? value : -1;
}

int main(int argc, char **argv) {
  const char *path = NULL;
  long limit = 30000, uid = (long)geteuid(), usable = argc % 2;
  for (int i = 1; usable && i + 1 < argc; i += 2) {
    if (!strcmp(argv[i], "--socket")) path = argv[i + 1];
    else if (!strcmp(argv[i], "--limit-ms")) limit = number(argv[i + 1]);
    else if (!strcmp(argv[i], "--uid")) uid = number(argv[i + 1]);
    else usable = false;
  }
  if (!usable || !path || limit <= 0 || uid < 0) {
    fputs("usage: keeper --socket PATH [--limit-ms N (30000)] [--uid N (its own)]\n", stderr);
    return 2;
  }
  for (int i = 0; i < ENTRIES_MAX; i++) entries[i].fd = -1;
  for (int i = 0; i < CLIENTS_MAX; i++) clients[i].fd = -1;
  wanted_uid = (uid_t)uid;
  limit_ms = limit;
  started = alive_at = now_ms();
  refusal_logged = started - REFUSAL_LOG_MS;
  init_limits();
  init_signals();
  open_listener(path);
  char quoted[256];
  quote(path, quoted, sizeof quoted);
  say("info", "the keeper runs", ",\"socket\":\"%s\",\"limitMs\":%ld,\"entriesMax\":%d,\"uid\":%ld", quoted, limit,
      entries_max, uid);
  for (;;) {
    struct pollfd waits[2 + CLIENTS_MAX] = {{.fd = signals, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
    int timeout = look_at_times();
    for (int i = 0; i < CLIENTS_MAX; i++) {
      // Nothing is read of a client that has not taken its list.
      waits[2 + i] = (struct pollfd){.fd = clients[i].fd, .events = clients[i].listing ? POLLOUT : POLLIN};
    }
    if (poll(waits, 2 + CLIENTS_MAX, timeout) < 0) continue;
    if (waits[0].revents) break;
    for (int i = 0; i < CLIENTS_MAX; i++) {
      struct client *client = &clients[i];
      if (client->fd < 0 || !waits[2 + i].revents) continue;
      if (client->listing) go_on_listing(client);
      else receive(client);
    }
    if (waits[1].revents) take_client();
  }
  // What was kept is only closed: whoever has duplicates goes on with them.
  say("info", "the keeper ends", ",\"entries\":%d", entries_used);
  return 0;
}
