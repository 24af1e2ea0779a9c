// SPDX-License-Identifier: Apache-2.0
// What the container runtime executes: carries the CNI environment and stdin to the agent over a Unix socket and
// its answer back. It knows of CNI only what must be answered while the agent is away: VERSION, whose pods must not
// start outside the mesh (by a list on disk, cni-plugin/logic/enrolled-list.ts), tombstones for DEL, and the previous
// result, which it hands on byte for byte. Everything else is cni-plugin/logic/.
//
// request:  u32 length (big endian) | "NMCNI1" 0 | KEY=VALUE 0 ... | 0 | stdin
// reply:    u32 length (big endian) | u32 exit code | stdout

#include "json.h"
#include "syscalls.h"

enum {
  STDIN_BYTES_MAX = 1 << 20,
  REPLY_BYTES_MAX = 1 << 20,
  ENVIRONMENT_BYTES_MAX = 64 << 10,
  LIST_BYTES_MAX = 4 << 20,
  TEXT_BYTES_MAX = 1024,
  CONNECT_MS = 2000,
  CONNECT_RETRY_MS = 50,
  DEADLINE_MS = 30000,
  TOMBSTONES_MAX = 4096,
};
// Codes of the CNI specification; 50 is "the plugin is not available".
enum { CODE_VERSION = 1, CODE_FIELD = 2, CODE_ENVIRONMENT = 4, CODE_IO = 5, CODE_DECODE = 6, CODE_CONFIG = 7, CODE_TRY_AGAIN = 11, CODE_UNAVAILABLE = 50 };

#define CNI_CURRENT "1.1.0"
#define CNI_SUPPORTED "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
#define LITERAL(text) (text), sizeof(text) - 1

static char request[4 + 7 + ENVIRONMENT_BYTES_MAX + 1 + STDIN_BYTES_MAX + 1];
static char reply[4 + REPLY_BYTES_MAX];
static char list[LIST_BYTES_MAX + 1];
static char entries[64 << 10];

static struct {
  const char *command, *container, *netns, *ifname, *arguments;
  struct span config;
  char version[32];
  char socket[TEXT_BYTES_MAX], enrolled[TEXT_BYTES_MAX], tombstones[TEXT_BYTES_MAX];
  int64_t deadline;
  const char *away;  // what is wrong with the agent
} call;

static size_t append(char *to, size_t at, size_t limit, const char *from, size_t length) {
  for (size_t i = 0; i < length && at < limit; i++) to[at++] = from[i];
  return at;
}

static void write_all(int fd, const char *from, size_t length) {
  while (length > 0) {
    long written = sys_write(fd, from, length);
    if (written == -E_INTR) continue;
    if (written <= 0) sys_exit(1);  // nobody reads our answer
    from += written;
    length -= (size_t)written;
  }
}

static size_t append_quoted(char *to, size_t at, size_t limit, const char *from) {
  for (; *from != 0 && at + 2 < limit; from++) {
    if (*from == '"' || *from == '\\') to[at++] = '\\';
    to[at++] = (unsigned char)*from < 0x20 || (unsigned char)*from > 0x7e ? '?' : *from;
  }
  return at;
}

/** Ends with a CNI error object. Both texts are quoted as far as JSON needs. */
_Noreturn static void fail(int code, const char *message, const char *details) {
  char text[1024 + 2 * TEXT_BYTES_MAX];
  size_t at = 0, limit = sizeof text - 4;
  at = append(text, at, limit, LITERAL("{\"cniVersion\":\""));
  at = append(text, at, limit, call.version, strlen(call.version));
  at = append(text, at, limit, LITERAL("\",\"code\":"));
  char digits[4] = {0};
  size_t count = 0;
  if (code >= 10) digits[count++] = (char)('0' + code / 10);
  digits[count++] = (char)('0' + code % 10);
  at = append(text, at, limit, digits, count);
  at = append(text, at, limit, LITERAL(",\"msg\":\""));
  at = append_quoted(text, at, limit, message);
  at = append(text, at, limit, LITERAL("\",\"details\":\""));
  at = append_quoted(text, at, limit, details);
  text[at++] = '"';
  text[at++] = '}';
  text[at++] = '\n';
  write_all(1, text, at);
  sys_exit(1);
}

static bool same(struct span a, const char *text, size_t length) {
  return a.length == length && memcmp(a.at, text, length) == 0;
}

/** The text of a JSON string into `to`; false if it is no string, is too long or has escapes beyond \/ \" \\. */
static bool json_text(struct span value, char *to, size_t size) {
  size_t at = 0;
  if (value.at == NULL || value.length < 2 || *value.at != '"') return false;
  for (size_t i = 1; i < value.length - 1; i++) {
    char c = value.at[i];
    if (c == '\\') {
      c = value.at[++i];
      if (c != '/' && c != '"' && c != '\\') return false;
    }
    if (at + 1 >= size) return false;
    to[at++] = c;
  }
  to[at] = 0;
  return true;
}

static void setting(const char *key, char *to, const char *fallback) {
  struct span value = json_get(call.config, key, strlen(key));
  if (value.at == NULL) {
    memcpy(to, fallback, strlen(fallback) + 1);
  } else if (!json_text(value, to, TEXT_BYTES_MAX)) {
    fail(CODE_CONFIG, "nodemesh: a setting of the network configuration is no usable text", key);
  }
}

/** A value of CNI_ARGS (`K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1`). */
static struct span argument(const char *key) {
  size_t key_length = strlen(key);
  for (const char *p = call.arguments; *p != 0;) {
    const char *end = p;
    while (*end != 0 && *end != ';') end++;
    if ((size_t)(end - p) > key_length && p[key_length] == '=' && memcmp(p, key, key_length) == 0)
      return (struct span){p + key_length + 1, (size_t)(end - p) - key_length - 1};
    p = *end == 0 ? end : end + 1;
  }
  return (struct span){NULL, 0};
}

/** Namespaces whose pods never wait for the agent: its own, kube-system, the configured ones. */
static bool excluded(struct span name_space) {
  if (name_space.at == NULL) return false;
  if (same(name_space, LITERAL("kube-system"))) return true;
  char own[TEXT_BYTES_MAX];
  setting("namespace", own, "nodemesh");
  if (same(name_space, own, strlen(own))) return true;
  struct span names = json_get(call.config, LITERAL("excludeNamespaces"));
  struct span element;
  if (names.at == NULL || *names.at != '[') return false;
  for (const char *p = names.at; json_next(&p, names.at + names.length, &element);)
    if (element.length >= 2 && same(name_space, element.at + 1, element.length - 2)) return true;
  return false;
}

enum listed { LIST_SILENT, LIST_NAMES_IT, LIST_DAMAGED };

/** Reads the agent's list; its length, 0 if there is none, -1 if it cannot be read. */
static long read_list(void) {
  long fd = sys_open(call.enrolled, O_RDONLY_, 0);
  if (fd == -E_NOENT) return 0;
  if (fd < 0) return -1;
  size_t length = 0;
  for (;;) {
    long got = sys_read((int)fd, list + length, sizeof list - length);
    if (got == -E_INTR) continue;
    if (got < 0 || length + (size_t)got > LIST_BYTES_MAX) return -1;
    if (got == 0) break;
    length += (size_t)got;
  }
  sys_close((int)fd);
  // An empty file is what a power cut leaves of one: no list at all is something else.
  return length == 0 ? -1 : (long)length;
}

static bool starts(struct span line, const char *text, size_t length) {
  return line.length >= length && memcmp(line.at, text, length) == 0;
}

/** The number at the end of the list's last line, `end 12`; -1 if it is something else. */
static int64_t end_count(struct span line) {
  if (!starts(line, LITERAL("end ")) || line.length < 5 || line.length > 13) return -1;
  int64_t count = 0;
  for (size_t i = 4; i < line.length; i++) {
    if (line.at[i] < '0' || line.at[i] > '9') return -1;
    count = count * 10 + (line.at[i] - '0');
  }
  return count;
}

/** Whether the agent's list names the pod or its namespace. A list that is there but not whole may lack any. */
static enum listed enrolled(struct span name_space, struct span uid) {
  if (name_space.at == NULL || name_space.length == 0) return LIST_SILENT;
  long length = read_list();
  if (length <= 0) return length == 0 ? LIST_SILENT : LIST_DAMAGED;
  if (list[length - 1] != '\n') return LIST_DAMAGED;
  bool found = false;
  int64_t count = -1;  // the head is no entry
  struct span line = {NULL, 0};
  for (long start = 0; start < length; start += (long)line.length + 1) {
    long end = start;
    while (list[end] != '\n') end++;
    line = (struct span){list + start, (size_t)(end - start)};
    if (end + 1 == length) break;
    if (start == 0 && !same(line, LITERAL("nodemesh-enrolled 1"))) return LIST_DAMAGED;
    if (starts(line, LITERAL("ns ")) && same(name_space, line.at + 3, line.length - 3)) found = true;
    if (starts(line, LITERAL("pod ")) && uid.at != NULL && uid.length > 0 && same(uid, line.at + 4, line.length - 4))
      found = true;
    count++;
  }
  if (count < 0 || end_count(line) != count) return LIST_DAMAGED;
  return found ? LIST_NAMES_IT : LIST_SILENT;
}

static bool is(const char *command) {
  size_t length = strlen(command);
  return strlen(call.command) == length && memcmp(call.command, command, length) == 0;
}

static bool supported(const char *version) {
  size_t length = strlen(version);
  for (const char *p = CNI_SUPPORTED; *p != 0;) {
    size_t one = 0;
    while (p[one] != 0 && p[one] != ',') one++;
    if (one == length && memcmp(p, version, one) == 0) return true;
    p += p[one] == 0 ? one : one + 2;
  }
  return false;
}

/** The previous plugin's result; its absence is a mistake in the configuration. */
static struct span previous_result(void) {
  struct span previous = json_get(call.config, LITERAL("prevResult"));
  if (previous.at == NULL || same(previous, LITERAL("null")))
    fail(CODE_CONFIG, "nodemesh: prevResult is missing", "nodemesh-cni must stand after the plugin that makes the interface");
  if (*previous.at != '{') fail(CODE_DECODE, "nodemesh: prevResult is no JSON object", "");
  struct span version = json_get(previous, LITERAL("cniVersion"));
  char text[32];
  if (version.at != NULL && (!json_text(version, text, sizeof text) || !supported(text)))
    fail(CODE_CONFIG, "nodemesh: prevResult is of a cniVersion that is not supported", "the plugin before must answer in one of " CNI_SUPPORTED);
  return previous;
}

/** The previous plugin's result, byte for byte; with the version of the call if it has none of its own. */
_Noreturn static void pass(void) {
  struct span previous = previous_result();
  if (json_get(previous, LITERAL("cniVersion")).at == NULL) {
    write_all(1, LITERAL("{\"cniVersion\":\""));
    write_all(1, call.version, strlen(call.version));
    write_all(1, LITERAL("\""));
    const char *inside = json_space(previous.at + 1, previous.at + previous.length);
    if (*inside != '}') write_all(1, LITERAL(","));
    previous = (struct span){inside, previous.length - (size_t)(inside - previous.at)};
  }
  write_all(1, previous.at, previous.length);
  write_all(1, LITERAL("\n"));
  sys_exit(0);
}

static void require(const char *value, const char *message) {
  if (value[0] == 0) fail(CODE_ENVIRONMENT, message, "the container runtime must set it");
}

static void require_container(void) {
  require(call.container, "nodemesh: CNI_CONTAINERID is not set");
  size_t length = strlen(call.container);
  for (size_t i = 0; i < length; i++) {
    char c = call.container[i];
    bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (length > 250 || (!plain && (i == 0 || (c != '_' && c != '.' && c != '-'))))
      fail(CODE_ENVIRONMENT, "nodemesh: CNI_CONTAINERID is no container id", "it begins with a letter or digit and goes on with letters, digits, '_', '.' and '-'");
  }
}

/** A well-known field that asks for what a plugin without addresses of its own cannot do. */
static void refuse_field(const char *key) {
  struct span value = json_get(call.config, key, strlen(key));
  if (value.at == NULL || same(value, LITERAL("null")) || same(value, LITERAL("false"))) return;
  char text[300];
  size_t at = append(text, 0, sizeof text - 1, LITERAL("nodemesh: the field "));
  at = append(text, at, sizeof text - 1, key, strlen(key));
  at = append(text, at, sizeof text - 1, LITERAL(" is not supported: "));
  at = append(text, at, sizeof text - 1, value.at, value.length);
  text[at] = 0;
  fail(CODE_FIELD, text, "addresses are the work of the plugin before; remove the field from the entry of nodemesh-cni");
}

/** What the agent would refuse too, so that it makes no difference whether it is there. */
static void check_call(void) {
  static const char *const since[][3] = {{"CHECK", "0.4.0", "CHECK came with 0.4.0"},
                                         {"GC", "1.1.0", "GC came with 1.1.0"},
                                         {"STATUS", "1.1.0", "STATUS came with 1.1.0"}};
  bool add = is("ADD"), check = is("CHECK");
  if (!add && !check && !is("DEL") && !is("GC") && !is("STATUS"))
    fail(CODE_ENVIRONMENT, "nodemesh: CNI_COMMAND is no command of CNI", call.command);
  // DEL must succeed for pods whose configuration was changed since.
  if (!is("DEL")) {
    struct span version = json_get(call.config, LITERAL("cniVersion"));
    char text[32];
    if (version.at != NULL && !same(version, LITERAL("null")) && *version.at != '"')
      fail(CODE_DECODE, "nodemesh: cniVersion is no text", "");
    if (!json_text(version, text, sizeof text) || !supported(text))
      fail(CODE_VERSION, "nodemesh: cniVersion is not supported", "use one of " CNI_SUPPORTED);
    // Two versions that are supported compare as texts.
    for (size_t i = 0; i < sizeof since / sizeof since[0]; i++)
      if (is(since[i][0]) && memcmp(text, since[i][1], 5) < 0)
        fail(CODE_VERSION, "nodemesh: cniVersion does not know the command", since[i][2]);
  }
  if (add || check || is("DEL")) require_container();
  if (!add && !check) return;
  require(call.netns, "nodemesh: CNI_NETNS is not set");
  if (call.netns[0] != '/') fail(CODE_ENVIRONMENT, "nodemesh: CNI_NETNS is no absolute path", call.netns);
  require(call.ifname, "nodemesh: CNI_IFNAME is not set");
  refuse_field("ipam");
  refuse_field("ipMasq");
  previous_result();
}

static void tombstone_path(char *path, size_t size) {
  size_t at = append(path, 0, size - 1, call.tombstones, strlen(call.tombstones));
  at = append(path, at, size - 1, LITERAL("/"));
  at = append(path, at, size - 1, call.container, strlen(call.container));
  path[at] = 0;
}

/** False once there are so many that the agent finds the rest faster by looking itself. */
static bool room_for_tombstone(void) {
  long fd = sys_open(call.tombstones, O_RDONLY_, 0);
  if (fd < 0) return false;
  size_t count = 0;
  for (;;) {
    long got = sys_entries((int)fd, entries, sizeof entries);
    if (got <= 0) break;
    // struct linux_dirent64: u64 ino, s64 off, u16 length of the record
    for (long at = 0; at < got; count++) at += *(uint16_t *)(void *)(entries + at + 16);
  }
  sys_close((int)fd);
  return count < TOMBSTONES_MAX + 2;  // "." and ".." are counted
}

/** Leaves a note that the pod is gone, for the agent to find when it is back. */
static void leave_tombstone(void) {
  char path[TEXT_BYTES_MAX + 300];
  sys_mkdir(call.tombstones, 0700);
  if (!room_for_tombstone()) return;
  tombstone_path(path, sizeof path);
  long fd = sys_open(path, O_WRONLY_ | O_CREAT_ | O_TRUNC_, 0600);
  // Best effort: DEL must succeed; what no tombstone tells, the agent's reconciliation finds.
  if (fd < 0) return;
  struct span uid = argument("K8S_POD_UID");
  if (uid.at != NULL) sys_write((int)fd, uid.at, uid.length);
  sys_close((int)fd);
}

/** Ends with what is wrong with the agent and what follows from it. */
_Noreturn static void fail_away(int code, const char *consequence) {
  char message[256];
  size_t at = append(message, 0, sizeof message - 1, LITERAL("nodemesh: "));
  at = append(message, at, sizeof message - 1, call.away, strlen(call.away));
  at = append(message, at, sizeof message - 1, consequence, strlen(consequence));
  message[at] = 0;
  fail(code, message, call.socket);
}

/** What is answered without the agent. */
_Noreturn static void answer_alone(const char *away) {
  call.away = away;
  if (is("ADD")) {
    switch (enrolled(argument("K8S_POD_NAMESPACE"), argument("K8S_POD_UID"))) {
      case LIST_DAMAGED:
        fail_away(CODE_TRY_AGAIN, "; the list of what is in the mesh cannot be read: no pod starts without it");
      case LIST_NAMES_IT:
        fail_away(CODE_TRY_AGAIN, "; a pod of the mesh does not start without it");
      case LIST_SILENT:
        break;
    }
    // The container id may be used anew: an earlier removal must not be taken for one of this sandbox.
    char path[TEXT_BYTES_MAX + 300];
    tombstone_path(path, sizeof path);
    sys_unlink(path);
    pass();
  }
  if (is("STATUS")) fail_away(CODE_UNAVAILABLE, "");
  if (is("GC")) fail_away(CODE_TRY_AGAIN, "; nothing was cleaned up");
  if (is("DEL")) leave_tombstone();
  // CHECK: what an agent that restarts would say is not known, and a failed CHECK counts as broken for good.
  sys_exit(0);
}

static int connect_agent(void) {
  struct unix_address address = {AF_UNIX_, {0}};
  if (strlen(call.socket) >= sizeof address.path) fail(CODE_CONFIG, "nodemesh: socket is too long for a Unix socket", call.socket);
  memcpy(address.path, call.socket, strlen(call.socket));
  // Worth waiting for an agent that restarts only where the answer without it is a failure.
  bool patient = is("STATUS") ||
                 (is("ADD") && enrolled(argument("K8S_POD_NAMESPACE"), argument("K8S_POD_UID")) != LIST_SILENT);
  int64_t give_up = now_ms() + CONNECT_MS;
  if (give_up > call.deadline) give_up = call.deadline;
  for (;;) {
    long fd = sys_socket();
    if (fd < 0) return -1;
    int64_t left = give_up - now_ms();
    sys_connect_timeout((int)fd, left > 1 ? left : 1);
    if (sys_connect((int)fd, &address) == 0) return (int)fd;
    sys_close((int)fd);
    if (!patient || now_ms() + CONNECT_RETRY_MS > give_up) return -1;
    sleep_ms(CONNECT_RETRY_MS);
  }
}

static bool wait_for(int fd, short events) {
  int64_t left = call.deadline - now_ms();
  if (left <= 0) return false;
  long ready = sys_poll(fd, events, left);
  return ready > 0 || ready == -E_INTR;
}

static bool send_all(int fd, const char *from, size_t length) {
  while (length > 0) {
    long sent = sys_send(fd, from, length);
    if (sent == -E_AGAIN || sent == -E_INTR) {
      if (!wait_for(fd, POLLOUT_)) return false;
    } else if (sent <= 0) {
      return false;
    } else {
      from += sent;
      length -= (size_t)sent;
    }
  }
  return true;
}

static bool receive_all(int fd, char *to, size_t length) {
  while (length > 0) {
    long got = sys_recv(fd, to, length);
    if (got == -E_AGAIN || got == -E_INTR) {
      if (!wait_for(fd, POLLIN_)) return false;
    } else if (got <= 0) {
      return false;
    } else {
      to += got;
      length -= (size_t)got;
    }
  }
  return true;
}

static void put_u32(char *to, uint32_t value) {
  for (int i = 0; i < 4; i++) to[i] = (char)(value >> (24 - 8 * i));
}

static uint32_t get_u32(const char *from) {
  uint32_t value = 0;
  for (int i = 0; i < 4; i++) value = value << 8 | (unsigned char)from[i];
  return value;
}

static const char *environment(char **variables, const char *name) {
  size_t length = strlen(name);
  for (; *variables != NULL; variables++)
    if (strlen(*variables) > length && memcmp(*variables, name, length) == 0 && (*variables)[length] == '=')
      return *variables + length + 1;
  return "";
}

/** Puts the frame's head and every CNI_ variable into `request`; returns where stdin begins. */
static size_t begin_request(char **variables) {
  size_t limit = 4 + 7 + ENVIRONMENT_BYTES_MAX;
  size_t at = append(request, 4, limit, "NMCNI1", 7);
  for (; *variables != NULL; variables++) {
    size_t length = strlen(*variables) + 1;
    if (length < 6 || memcmp(*variables, "CNI_", 4) != 0) continue;
    if (at + length > limit) fail(CODE_ENVIRONMENT, "nodemesh: the CNI_ variables are longer than 64 KiB", "");
    at = append(request, at, limit, *variables, length);
  }
  request[at++] = 0;
  return at;
}

static size_t read_stdin(char *to) {
  size_t length = 0;
  for (;;) {
    long got = sys_read(0, to + length, STDIN_BYTES_MAX + 1 - length);
    if (got == -E_INTR) continue;
    if (got < 0) fail(CODE_IO, "nodemesh: stdin cannot be read", "");
    if (got == 0) return length;
    length += (size_t)got;
    if (length > STDIN_BYTES_MAX) fail(CODE_DECODE, "nodemesh: the network configuration is longer than 1 MiB", "");
  }
}

/** The version that errors and VERSION speak: the caller's if it looks like one. */
static void take_version(void) {
  memcpy(call.version, CNI_CURRENT, sizeof CNI_CURRENT);
  char version[sizeof call.version];
  if (call.config.at == NULL || !json_text(json_get(call.config, LITERAL("cniVersion")), version, sizeof version)) return;
  for (const char *p = version; *p != 0; p++)
    if ((*p < '0' || *p > '9') && *p != '.') return;
  if (version[0] != 0) memcpy(call.version, version, sizeof version);
}

__attribute__((used)) _Noreturn void shim_start(long *stack) {
  char **variables = (char **)(stack + 1 + stack[0] + 1);
  memcpy(call.version, CNI_CURRENT, sizeof CNI_CURRENT);
  call.command = environment(variables, "CNI_COMMAND");
  call.container = environment(variables, "CNI_CONTAINERID");
  call.netns = environment(variables, "CNI_NETNS");
  call.ifname = environment(variables, "CNI_IFNAME");
  call.arguments = environment(variables, "CNI_ARGS");
  if (call.command[0] == 0)
    fail(CODE_ENVIRONMENT, "nodemesh: CNI_COMMAND is not set", "this program is called by a container runtime");

  size_t start = begin_request(variables);
  size_t length = read_stdin(request + start);
  call.config = json_object(request + start, length);
  take_version();
  if (is("VERSION")) {
    write_all(1, LITERAL("{\"cniVersion\":\""));
    write_all(1, call.version, strlen(call.version));
    write_all(1, LITERAL("\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"));
    sys_exit(0);
  }
  if (call.config.at == NULL) fail(CODE_DECODE, "nodemesh: the network configuration is no JSON object", "");

  setting("socket", call.socket, "/run/nodemesh/cni.sock");
  setting("enrolledList", call.enrolled, "/var/lib/nodemesh/enrolled");
  setting("tombstones", call.tombstones, "/run/nodemesh/tombstones");
  int64_t deadline = 0;
  struct span configured = json_get(call.config, LITERAL("deadlineMs"));
  for (size_t i = 0; i < configured.length && i < 7; i++) {
    if (configured.at[i] < '0' || configured.at[i] > '9') fail(CODE_CONFIG, "nodemesh: deadlineMs is no whole number", "");
    deadline = deadline * 10 + (configured.at[i] - '0');
  }
  call.deadline = now_ms() + (deadline > 0 ? deadline : DEADLINE_MS);

  check_call();
  if (excluded(argument("K8S_POD_NAMESPACE"))) {
    if (is("ADD")) pass();
    if (is("DEL") || is("CHECK")) sys_exit(0);
  }
  int fd = connect_agent();
  if (fd < 0) answer_alone("the agent of this node cannot be reached");
  if (sys_peer_uid(fd) != 0) answer_alone("the agent's socket belongs to another user");
  put_u32(request, (uint32_t)(start - 4 + length));
  bool answered = send_all(fd, request, start + length) && receive_all(fd, reply, 8);
  size_t answer = answered ? get_u32(reply) : 0;
  answered = answered && answer >= 4 && answer <= REPLY_BYTES_MAX && receive_all(fd, reply + 8, answer - 4);
  if (!answered && now_ms() >= call.deadline) answer_alone("the agent of this node gave no answer in time");
  // One connection, one answer: whatever follows it makes all of it doubtful.
  char more;
  bool sound = answered && sys_recv(fd, &more, 1) <= 0;
  bool refused = sound && get_u32(reply + 4) != 0;
  if (refused) sound = json_object(reply + 8, answer - 4).at != NULL;
  if (!sound) answer_alone("the agent of this node gave no usable answer");
  if (is("ADD") && !refused) pass();
  write_all(1, reply + 8, answer - 4);
  sys_exit(refused ? 1 : 0);
}
