// SPDX-License-Identifier: Apache-2.0
// What a starting agent takes over from an earlier one, as bytes: so that it serves before the control plane answers.
// Encoding and decoding only; the keeper keeps the bytes in memory (they contain private keys and never touch a disk).
//
//   "nodemesh-snapshot <version> <sha256 of the rest>\n" JSON
//
// Workloads are kept in the form of the node stream, which agents one minor version apart both read.

import { createHash } from 'node:crypto';
import { errorMessage } from '#lib/core/errors.ts';
import { Workload } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import type { HeldCertificate } from '#lib/identity-client/certificates.ts';
import type { KnownDestination } from './discovery.ts';
import type { Sandbox } from './enrolment-model.ts';

const MAGIC = 'nodemesh-snapshot';
/** Raised whenever an earlier agent could not read what is written. */
export const SNAPSHOT_VERSION = 1;
const HEADER_MAX = 128;

/** What an enrolled pod must keep across agents. */
export interface KeptPod {
  readonly uid: string;
  /** Vouchers that wait in backlogs name it. */
  readonly podIndex: number;
}

export interface Snapshot {
  readonly writtenAtMs: number;
  readonly workloads: readonly Workload[];
  /** Those whose pods are meshed by default; undefined if destination has not told so far. */
  readonly namespaces: readonly string[] | undefined;
  readonly sandboxes: readonly Sandbox[];
  readonly pods: readonly KeptPod[];
  readonly certificates: readonly HeldCertificate[];
  readonly destinations: readonly KnownDestination[];
  /** By which workers prove to each other whose connection they accepted; not kept by earlier agents. Base64. */
  readonly permitKey?: string;
}

/** Workloads as base64 of their wire form; the rest as it is. */
type Written = Omit<Snapshot, 'workloads'> & { readonly workloads: readonly string[] };

/** The wire form of a workload, kept until the workload is another object. */
const wireForms = new WeakMap<Workload, string>();

function wireForm(workload: Workload): string {
  let text = wireForms.get(workload);
  if (text === undefined) {
    text = Buffer.from(Workload.encode(workload).finish()).toString('base64');
    wireForms.set(workload, text);
  }
  return text;
}

export function encodeSnapshot(snapshot: Snapshot): Buffer {
  const written: Written = { ...snapshot, workloads: snapshot.workloads.map(wireForm) };
  const body = Buffer.from(JSON.stringify(written));
  return Buffer.concat([Buffer.from(`${MAGIC} ${SNAPSHOT_VERSION} ${digestOf(body)}\n`), body]);
}

export type DecodedSnapshot =
  | { readonly outcome: 'read'; readonly snapshot: Snapshot }
  | { readonly outcome: 'ignored'; readonly reason: string };

/** Never throws: a snapshot that cannot be used is as good as none. */
export function decodeSnapshot(bytes: Buffer): DecodedSnapshot {
  const end = bytes.subarray(0, HEADER_MAX).indexOf(0x0a);
  const [magic, version, digest] = bytes.toString('latin1', 0, Math.max(end, 0)).split(' ');
  if (end < 0 || magic !== MAGIC) return { outcome: 'ignored', reason: 'it is no snapshot' };
  if (Number(version) !== SNAPSHOT_VERSION) {
    return { outcome: 'ignored', reason: `version ${version ?? '?'} is not known here` };
  }
  const body = bytes.subarray(end + 1);
  if (digestOf(body) !== digest) return { outcome: 'ignored', reason: 'it is damaged' };
  try {
    // Written by an agent of this version, byte by byte: its shape needs no second look.
    const written = JSON.parse(body.toString()) as Written;
    const workloads = written.workloads.map((text) => Workload.decode(Buffer.from(text, 'base64')));
    return { outcome: 'read', snapshot: { ...written, workloads } };
  } catch (error) {
    return { outcome: 'ignored', reason: errorMessage(error) };
  }
}

const digestOf = (body: Buffer): string => createHash('sha256').update(body).digest('hex');
