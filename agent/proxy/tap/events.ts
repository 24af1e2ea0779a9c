// SPDX-License-Identifier: Apache-2.0
// What listeners hear of exchanges: plain data, which crosses from worker to control thread. As Linkerd's tap: a
// request when it goes to an endpoint (again for each further try), the head of its response, its end.

/** Names in the order and case in which they came; of HTTP/2 with its pseudo-header fields. */
export type TapFields = readonly (readonly [string, string])[];

export interface TapPeer {
  readonly ip: string;
  readonly port: number;
  /** `mtls`, `carrier` (vouched for by the kernel of the node), `loopback` or `plain`. */
  readonly tls: string;
  readonly identity?: string;
  /** Of discovery. */
  readonly labels?: Readonly<Record<string, string>>;
}

export interface TapTrace {
  readonly traceId: string;
  readonly parentId: string;
  readonly sampled: boolean;
  /** Of a listener that traces: the span's id, which stands in the parent's place from here on. */
  readonly spanId?: string;
}

export type TapEvent =
  | {
      readonly type: 'request';
      readonly id: number;
      readonly wallMs: number;
      readonly direction: 'inbound' | 'outbound';
      readonly source: TapPeer;
      readonly destination: TapPeer;
      readonly version: string;
      readonly method: string;
      readonly authority: string;
      readonly path: string;
      /** 1: the first. */
      readonly attempt: number;
      readonly trace?: TapTrace;
      readonly headers?: TapFields;
    }
  | {
      readonly type: 'response';
      readonly id: number;
      readonly status: number;
      readonly sinceRequestMs: number;
      readonly headers?: TapFields;
    }
  | {
      readonly type: 'end';
      readonly id: number;
      /** What the client was told; of an error that the proxy answered too. */
      readonly status: number;
      readonly sinceRequestMs: number;
      /** Absent if no response came. */
      readonly sinceResponseMs?: number;
      /** Of the response's body, as it travelled. */
      readonly responseBytes: number;
      readonly grpcStatus?: number;
      /** Code with which an HTTP/2 endpoint reset it. */
      readonly reset?: number;
      /** What failed (agent/proxy/failure.ts). */
      readonly error?: string;
      readonly trailers?: TapFields;
    };

export interface TapListener {
  /** Wants header and trailer fields. */
  readonly headers: boolean;
  /** Makes spans: requests that belong to a trace carry a new span's id from here on. */
  readonly traces: boolean;
  /** False: not this request. */
  takes(): boolean;
  heard(event: TapEvent): void;
}
