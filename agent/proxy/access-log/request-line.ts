// SPDX-License-Identifier: Apache-2.0
// One line of the access log, in Linkerd's two formats. The agent's output has the lines of all its pods beside its own
// log: Apache's begin with the pod, as its format for several hosts does, JSON's have `component`, `namespace`, `pod`.
//
//   shop/web-1 10.1.0.7:40312 cart.shop.serviceaccount.identity.… - [2026-01-01T00:00:00.000Z] "GET / HTTP/2.0" 200

export type AccessLogFormat = 'apache' | 'json';

export interface LoggedPod {
  readonly namespace: string;
  readonly name: string;
}

/** What is known of a request when the head of its answer leaves. Absent fields are ''. */
export interface RequestFacts {
  readonly clientAddress: string;
  /** '' for a client without an identity. */
  readonly clientId: string;
  readonly wallMs: number;
  readonly method: string;
  readonly uri: string;
  readonly version: string;
  readonly traceId: string;
  readonly requestBytes: string;
  readonly userAgent: string;
  readonly host: string;
  readonly status: number;
  /** -1: the answer names no length. */
  readonly responseBytes: number;
  readonly totalMs: number;
  readonly processingMs: number;
}

/** Longer texts of a client are cut: a line has to fit into what a pipe takes in one go. */
const TEXT_MAX = 1_024;

export function requestLine(format: AccessLogFormat, pod: LoggedPod, facts: RequestFacts): string {
  const timestamp = new Date(facts.wallMs).toISOString();
  const clientId = facts.clientId === '' ? '-' : facts.clientId;
  if (format === 'apache') {
    const request = `${facts.method} ${escaped(cut(facts.uri))} ${facts.version}`;
    return `${pod.namespace}/${pod.name} ${facts.clientAddress} ${clientId} - [${timestamp}] "${request}" ${facts.status}\n`;
  }
  return `${JSON.stringify({
    component: 'access',
    namespace: pod.namespace,
    pod: pod.name,
    'client.addr': facts.clientAddress,
    'client.id': clientId,
    timestamp,
    method: facts.method,
    uri: cut(facts.uri),
    version: facts.version,
    trace_id: cut(facts.traceId),
    request_bytes: facts.requestBytes,
    status: facts.status,
    response_bytes: facts.responseBytes < 0 ? undefined : String(facts.responseBytes),
    total_ns: nanoseconds(facts.totalMs),
    processing_ns: nanoseconds(facts.processingMs),
    user_agent: cut(facts.userAgent),
    host: cut(facts.host),
  })}\n`;
}

const cut = (text: string): string => (text.length > TEXT_MAX ? text.slice(0, TEXT_MAX) : text);

const nanoseconds = (ms: number): string => String(Math.round(ms * 1e6));

/** As Apache does: what a client sends never ends a field or a line. */
function escaped(text: string): string {
  return text.replaceAll(
    /[^\x20\x21\x23-\x5b\x5d-\x7e]/g,
    (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}
