// SPDX-License-Identifier: Apache-2.0
// What the container runtime executes: carries the CNI environment and stdin to the agent over a Unix socket and
// its answer back. It knows of CNI only what must be answered while the agent is away: VERSION, whose pods must not
// start outside the mesh (by a list on disk), tombstones for DEL. Everything else is cni-plugin/logic/.
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
};
// Codes of the CNI specification; 50 is "the plugin is not available".
enum { CODE_ENVIRONMENT = 4, CODE_IO = 5, CODE_DECODE = 6, CODE_CONFIG = 7, CODE_TRY_AGAIN = 11, CODE_UNAVAILABLE = 50 };

#define CNI_CURRENT "1.1.0"
#define LITERAL(text) (text), sizeof(text) - 1

static char request[4 + 7 + ENVIRONMENT_BYTES_MAX + 1 + STDIN_BYTES_MAX + 1];
static char reply[4 + REPLY_BYTES_MAX];
static char list[LIST_BYTES_MAX + 1];

static struct {
  const char *command, *container, *netns, *arguments;
  struct span config;
  char version[32];
  char socket[TEXT_BYTES_MAX], enrolled[TEXT_BYTES_MAX], tombstones[TEXT_BYTES_MAX];
  int64_t deadline;
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

/** Ends with a CNI error object. `detail` is quoted as far as JSON needs. */
_Noreturn static void fail(int code, const char *message, const char *detail) {
  char text[512 + 2 * TEXT_BYTES_MAX];
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
  at = append(text, at, limit, message, strlen(message));
  at = append(text, at, limit, LITERAL("\",\"details\":\""));
  for (; *detail != 0 && at + 2 < limit; detail++) {
    if (*detail == '"' || *detail == '\\') text[at++] = '\\';
    text[at++] = (unsigned char)*detail < 0x20 || (unsigned char)*detail > 0x7e ? '?' : *detail;
  }
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

/** Whether the agent's list names the pod or its namespace. A list that is there but cannot be read counts as yes. */
static bool enrolled(struct span name_space, struct span uid) {
  long fd = sys_open(call.enrolled, O_RDONLY_, 0);
  if (fd == -E_NOENT) return false;
  if (fd < 0) return true;
  size_t length = 0;
  for (;;) {
    long got = sys_read((int)fd, list + length, sizeof list - length);
    if (got == -E_INTR) continue;
    if (got < 0 || length + (size_t)got > LIST_BYTES_MAX) return true;
    if (got == 0) break;
    length += (size_t)got;
  }
  sys_close((int)fd);
  for (size_t start = 0; start < length;) {
    size_t end = start;
    while (end < length && list[end] != '\n') end++;
    struct span line = {list + start, end - start};
    if (line.length > 3 && memcmp(line.at, "ns ", 3) == 0 && name_space.at != NULL &&
        same(name_space, line.at + 3, line.length - 3))
      return true;
    if (line.length > 4 && memcmp(line.at, "pod ", 4) == 0 && uid.at != NULL &&
        same(uid, line.at + 4, line.length - 4))
      return true;
    start = end + 1;
  }
  return false;
}

static bool is(const char *command) {
  size_t length = strlen(command);
  return strlen(call.command) == length && memcmp(call.command, command, length) == 0;
}

/** The previous plugin's result, byte for byte. */
_Noreturn static void pass(void) {
  struct span previous = json_get(call.config, LITERAL("prevResult"));
  if (previous.at == NULL || *previous.at != '{')
    fail(CODE_CONFIG, "nodemesh: prevResult is missing", "nodemesh-cni must stand after the plugin that makes the interface");
  write_all(1, previous.at, previous.length);
  write_all(1, LITERAL("\n"));
  sys_exit(0);
}

/** Leaves a note that the pod is gone, for the agent to find when it is back. */
static void leave_tombstone(void) {
  char path[TEXT_BYTES_MAX + 300];
  size_t length = strlen(call.container);
  if (length == 0 || length > 250 || call.container[0] == '.') return;
  for (size_t i = 0; i < length; i++)
    if (call.container[i] == '/') return;
  sys_mkdir(call.tombstones, 0700);
  size_t at = append(path, 0, sizeof path - 1, call.tombstones, strlen(call.tombstones));
  at = append(path, at, sizeof path - 1, LITERAL("/"));
  at = append(path, at, sizeof path - 1, call.container, length);
  path[at] = 0;
  long fd = sys_open(path, O_WRONLY_ | O_CREAT_ | O_TRUNC_, 0600);
  // Best effort: DEL must succeed; what no tombstone tells, the agent's reconciliation finds.
  if (fd < 0) return;
  struct span uid = argument("K8S_POD_UID");
  if (uid.at != NULL) sys_write((int)fd, uid.at, uid.length);
  sys_close((int)fd);
}

/** What is answered without the agent. */
_Noreturn static void answer_alone(void) {
  if (is("ADD")) {
    if (enrolled(argument("K8S_POD_NAMESPACE"), argument("K8S_POD_UID")))
      fail(CODE_TRY_AGAIN, "nodemesh: the agent of this node cannot be reached; a pod of the mesh does not start without it", call.socket);
    pass();
  }
  if (is("STATUS")) fail(CODE_UNAVAILABLE, "nodemesh: the agent of this node cannot be reached", call.socket);
  if (is("DEL")) leave_tombstone();
  if (!is("DEL") && !is("CHECK") && !is("GC"))
    fail(CODE_ENVIRONMENT, "nodemesh: CNI_COMMAND is no command of CNI", call.command);
  sys_exit(0);
}

static int connect_agent(void) {
  struct unix_address address = {AF_UNIX_, {0}};
  if (strlen(call.socket) >= sizeof address.path) fail(CODE_CONFIG, "nodemesh: socket is too long for a Unix socket", call.socket);
  memcpy(address.path, call.socket, strlen(call.socket));
  // Worth waiting for an agent that restarts only where the answer without it is a failure.
  bool patient = is("STATUS") || (is("ADD") && enrolled(argument("K8S_POD_NAMESPACE"), argument("K8S_POD_UID")));
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

  if (excluded(argument("K8S_POD_NAMESPACE"))) {
    if (is("ADD")) pass();
    if (is("DEL") || is("CHECK")) sys_exit(0);
  }
  int fd = connect_agent();
  if (fd < 0) answer_alone();
  put_u32(request, (uint32_t)(start - 4 + length));
  if (!send_all(fd, request, start + length) || !receive_all(fd, reply, 8)) answer_alone();
  size_t answer = get_u32(reply);
  if (answer < 4 || answer > REPLY_BYTES_MAX || !receive_all(fd, reply + 8, answer - 4)) answer_alone();
  write_all(1, reply + 8, answer - 4);
  sys_exit(get_u32(reply + 4) == 0 ? 0 : 1);
}
