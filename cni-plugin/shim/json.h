// SPDX-License-Identifier: Apache-2.0
// Finds the values of an object's keys in JSON text without copying or building anything. Not a validator: it is
// strict enough never to read past the end or to take one value for another, and no stricter.
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct span {
  const char *at;  // NULL: absent
  size_t length;
};

enum { JSON_DEPTH_MAX = 64 };

static const char *json_space(const char *p, const char *end) {
  while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
  return p;
}

/** The end of the string that starts with the quote at p; NULL if it does not end. */
static const char *json_string(const char *p, const char *end) {
  for (p++; p < end; p++) {
    if (*p == '"') return p + 1;
    if ((unsigned char)*p < 0x20) return NULL;
    if (*p == '\\') p++;
  }
  return NULL;
}

/** The end of the value that starts at p; NULL if there is none. */
static const char *json_value(const char *p, const char *end, int depth) {
  if (p >= end || depth > JSON_DEPTH_MAX) return NULL;
  if (*p == '"') return json_string(p, end);
  if (*p != '{' && *p != '[') {
    const char *start = p;
    while (p < end && ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || *p == '-' || *p == '+' || *p == '.' || *p == 'E')) p++;
    return p == start ? NULL : p;
  }
  char close = *p == '{' ? '}' : ']';
  p = json_space(p + 1, end);
  if (p < end && *p == close) return p + 1;
  for (;;) {
    if (close == '}') {
      if (p >= end || *p != '"') return NULL;
      p = json_string(p, end);
      if (p == NULL) return NULL;
      p = json_space(p, end);
      if (p >= end || *p != ':') return NULL;
      p = json_space(p + 1, end);
    }
    p = json_value(p, end, depth + 1);
    if (p == NULL) return NULL;
    p = json_space(p, end);
    if (p >= end) return NULL;
    if (*p == close) return p + 1;
    if (*p != ',') return NULL;
    p = json_space(p + 1, end);
  }
}

/** The whole text as one object, white space around it removed; absent if it is not exactly one object. */
static struct span json_object(const char *text, size_t length) {
  const char *end = text + length;
  const char *start = json_space(text, end);
  const char *stop = start < end && *start == '{' ? json_value(start, end, 0) : NULL;
  if (stop == NULL || json_space(stop, end) != end) return (struct span){NULL, 0};
  return (struct span){start, (size_t)(stop - start)};
}

/** Walks an array's elements: `*p` starts at the opening bracket; false at the end. The array is known to be sound. */
static bool json_next(const char **p, const char *end, struct span *element) {
  if (**p == ']') return false;
  const char *start = json_space(*p + 1, end);
  if (start >= end || *start == ']') return false;
  const char *stop = json_value(start, end, 0);
  if (stop == NULL) return false;
  *element = (struct span){start, (size_t)(stop - start)};
  *p = json_space(stop, end);
  return true;
}

/** The raw value of `key` in a sound object; the last one counts if there are several, as in every JSON reader. */
static struct span json_get(struct span object, const char *key, size_t key_length) {
  struct span found = {NULL, 0};
  const char *end = object.at + object.length;
  const char *p = json_space(object.at + 1, end);
  while (p < end && *p == '"') {
    const char *name = p + 1;
    p = json_string(p, end);
    size_t name_length = (size_t)(p - name) - 1;
    p = json_space(json_space(p, end) + 1, end);
    const char *stop = json_value(p, end, 0);
    if (stop == NULL) break;
    bool same = name_length == key_length;
    for (size_t i = 0; same && i < key_length; i++) same = name[i] == key[i];
    if (same) found = (struct span){p, (size_t)(stop - p)};
    p = json_space(stop, end);
    if (p < end && *p == ',') p = json_space(p + 1, end);
  }
  return found;
}
