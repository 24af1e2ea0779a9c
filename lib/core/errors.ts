// SPDX-License-Identifier: Apache-2.0
// The error of every part: a code of the catalogue below, a message that says what, who and what to do.
// Operating errors of the proxy's hot path are the small integers of agent/proxy/failure.ts, not these.

/** Every code with its meaning; docs/reference/errors.md is compared with it by a test. */
export const errorCatalogue = {
  MESH_CONFIG_INVALID:
    'A setting (flag, environment variable, annotation, file) has a value that cannot be used.',
  MESH_MANIFEST_INVALID: 'A manifest cannot be read: not YAML, an unknown kind or field, or a wrong value.',
  MESH_NOT_FOUND: 'The named object does not exist.',
  MESH_ALREADY_EXISTS: 'The named object exists already.',
  MESH_NOT_ROOT: 'The command needs root.',
  MESH_HOST_UNFIT: 'This machine lacks something: kernel feature, BTF, cgroup2, a program or a package.',
  MESH_BPF_LOAD: 'An eBPF object was refused by the kernel; the verifier log is part of the error.',
  MESH_BPF_ATTACH: 'An eBPF program could not be attached, or a foreign program stands in the way.',
  MESH_BPF_MAP: 'An eBPF map refused an operation; a full map is named.',
  MESH_SYSCALL: 'A system call failed; errno and call are named.',
  MESH_NETNS: 'A network namespace cannot be entered or left.',
  MESH_IDENTITY_REFUSED: 'Identity refused to certify; the reason names account, token and rule.',
  MESH_IDENTITY_RETRY: 'Identity cannot decide yet (for instance a pod not seen so far); try again.',
  MESH_IDENTITY_UNAVAILABLE: 'Identity cannot be reached.',
  MESH_CERTIFICATE_INVALID:
    'A certificate or key cannot be used: expired, wrong name, foreign anchor, bad encoding.',
  MESH_TOKEN_INVALID: 'A token is malformed, expired, of another audience or of an unknown signer.',
  MESH_DESTINATION_UNAVAILABLE: 'Destination cannot be reached.',
  MESH_STREAM_REFUSED: 'A control-plane stream was refused: wrong node, token or identity.',
  MESH_CNI_INVALID: 'The container runtime called the CNI plugin with input it cannot use.',
  MESH_CNI_TRY_AGAIN: 'The CNI plugin cannot mesh the pod yet; the runtime shall try again.',
  MESH_PROTOCOL: 'A peer sent what the protocol does not allow.',
  MESH_LIMIT: 'A limit was reached; which one is named.',
  MESH_TIMEOUT: 'Something took longer than it may.',
  MESH_KEEPER_UNAVAILABLE: 'The keeper cannot be reached, or does not answer in time.',
  MESH_KEEPER_REFUSED: 'The keeper refused a request; the reason is named.',
  MESH_KUBERNETES: 'A call of the Kubernetes API failed; the call and its answer are named.',
  MESH_PROMETHEUS: 'Prometheus cannot be reached or refused a query; where it was looked for is named.',
  MESH_COMMAND_FAILED: 'A program that was called failed; its output is part of the error.',
} as const;

export type ErrorCode = keyof typeof errorCatalogue;

export interface MeshErrorOptions {
  readonly cause?: unknown;
  /** What the reader can do about it. */
  readonly remedy?: string;
  /** Whether the same call may succeed later. */
  readonly retryable?: boolean;
}

export class MeshError extends Error {
  override readonly name = 'MeshError';
  readonly code: ErrorCode;
  readonly remedy: string | undefined;
  readonly retryable: boolean;

  constructor(code: ErrorCode, message: string, options: MeshErrorOptions = {}) {
    super(
      options.remedy === undefined ? message : `${message}; ${options.remedy}`,
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.code = code;
    this.remedy = options.remedy;
    this.retryable = options.retryable ?? false;
  }

  /** Converts anything thrown into a MeshError; for use at the edge where foreign errors come in. */
  static from(error: unknown, code: ErrorCode, context: string): MeshError {
    if (error instanceof MeshError) return error;
    return new MeshError(code, `${context}: ${errorMessage(error)}`, { cause: error });
  }
}

/** The message of anything thrown. */
export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The errno name (`ECONNREFUSED`) of a Node.js system error, or undefined. */
export function errnoName(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** Ends the worker or process when a condition that the code itself guarantees does not hold. */
export function invariant(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`invariant broken: ${message}`);
}

/** For `switch` over a union: the compiler proves that this is never reached. */
export function assertNever(value: never): never {
  throw new Error(`invariant broken: unexpected ${JSON.stringify(value)}`);
}
