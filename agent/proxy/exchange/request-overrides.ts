// SPDX-License-Identifier: Apache-2.0
// What a request sets for itself, where its service allows that: fields that replace parts of its route's policy. They
// are for this proxy and do not travel on. What cannot be read counts as not set, of lists each item for itself.

import {
  DEFAULT_MAX_RETRIES,
  parseGrpcCode,
  parseMaxRetries,
  parsePolicyDurationMs,
  parseStatusRange,
  type RequestPolicy,
  type RequestTimeouts,
  type RetryPolicy,
} from '#lib/core/request-policy.ts';
import { nameBytes, nameIs } from '#lib/http/characters.ts';
import type { Head } from '../http1/head.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';

const PREFIX = nameBytes('l5d-');
const names: ReadonlySet<string> = new Set([
  'l5d-retry-http',
  'l5d-retry-grpc',
  'l5d-retry-limit',
  'l5d-retry-timeout',
  'l5d-timeout',
  'l5d-request-timeout',
  'l5d-response-timeout',
]);

/** Values by name; the first of each. */
export type Overrides = ReadonlyMap<string, string>;
const none: Overrides = new Map();

/** Takes them out of an HTTP/1 head. */
export function takeOverrides(head: Head, buffer: Buffer): Overrides {
  let found: Map<string, string> | null = null;
  for (let field = 0; field < head.fieldCount; field++) {
    const start = head.nameStart(field);
    if (head.nameEnd(field) - start <= PREFIX.length || !nameIs(buffer, start, PREFIX)) continue;
    const name = buffer.toString('latin1', start, head.nameEnd(field)).toLowerCase();
    if (!names.has(name)) continue;
    found ??= new Map();
    if (!found.has(name)) found.set(name, head.value(buffer, field));
    head.dropField(field);
  }
  return found ?? none;
}

/** Parses a head that was well, once more; `overrides`: takes them out again. */
export function parseAgain(head: Head, bytes: Buffer, overrides: boolean): number {
  const end = head.parseRequest(bytes, 0, bytes.length, true);
  if (overrides) takeOverrides(head, bytes);
  return end;
}

/** Takes them out of an HTTP/2 header list. */
export function takeListOverrides(list: HeaderList): Overrides {
  let found: Map<string, string> | null = null;
  for (const name of names) {
    const field = list.get(name);
    if (field === null) continue;
    found ??= new Map();
    found.set(name, field.value);
  }
  if (found !== null) list.dropNames(names);
  return found ?? none;
}

export function overridden(policy: RequestPolicy, overrides: Overrides): RequestPolicy {
  if (overrides.size === 0) return policy;
  return {
    timeouts: timeoutsOf(policy.timeouts ?? {}, overrides),
    ...retryOf(policy.retry, overrides),
  };
}

function timeoutsOf(timeouts: RequestTimeouts, overrides: Overrides): RequestTimeouts {
  const request = duration(overrides, 'l5d-request-timeout') ?? duration(overrides, 'l5d-timeout');
  const response = duration(overrides, 'l5d-response-timeout');
  return {
    ...timeouts,
    ...(request === undefined ? {} : { requestMs: request || undefined }),
    ...(response === undefined ? {} : { responseMs: response || undefined }),
  };
}

function retryOf(retry: RetryPolicy | undefined, overrides: Overrides): Pick<RequestPolicy, 'retry'> {
  const statuses = items(overrides, 'l5d-retry-http', parseStatusRange);
  const grpcCodes = items(overrides, 'l5d-retry-grpc', parseGrpcCode);
  const maxRetries = parseMaxRetries(overrides.get('l5d-retry-limit') ?? '');
  const timeoutMs = duration(overrides, 'l5d-retry-timeout');
  const set = [statuses, grpcCodes, maxRetries, timeoutMs].some((value) => value !== undefined);
  if (!set) return retry === undefined ? {} : { retry };
  const limit = maxRetries ?? retry?.maxRetries ?? DEFAULT_MAX_RETRIES;
  // None at all is what the request may ask for, too.
  if (limit === 0) return {};
  return {
    retry: {
      statuses: statuses ?? retry?.statuses ?? [],
      grpcCodes: grpcCodes ?? retry?.grpcCodes ?? [],
      maxRetries: limit,
      timeoutMs: (timeoutMs ?? retry?.timeoutMs) || undefined,
    },
  };
}

const duration = (overrides: Overrides, name: string): number | undefined =>
  parsePolicyDurationMs(overrides.get(name) ?? '');

/** White space around an item makes it another one, as with Linkerd. */
function items<T>(
  overrides: Overrides,
  name: string,
  parse: (item: string) => T | undefined,
): readonly T[] | undefined {
  const text = overrides.get(name);
  if (text === undefined) return undefined;
  return text.split(',').flatMap((item) => {
    const parsed = parse(item);
    return parsed === undefined ? [] : [parsed];
  });
}
