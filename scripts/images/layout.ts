// SPDX-License-Identifier: Apache-2.0
// Which images there are and what is in each. How a root file system is laid out is root.ts.

import { ownVersion } from '#lib/version/own-version.ts';
import type { ImageConfig } from './archive.ts';

export interface ImageLayout {
  readonly name: string;
  readonly tag: string;
  readonly config: ImageConfig;
  /** Programs with their libraries and Node.js below them, or nothing but what is copied. */
  readonly base: boolean;
  readonly entries: readonly string[];
  /** From the project to the image. */
  readonly copies: Readonly<Record<string, string>>;
  /** Programs of this machine's Debian packages, with the libraries that they load. */
  readonly programs: readonly string[];
  /** Bytes unpacked, at most. */
  readonly bytesMax: number;
  /** Who runs it: the compile cache is read by that user only. */
  readonly uid: number;
}

export const APP = '/app';
export const COMPILE_CACHE = `${APP}/compile-cache`;
/** The control plane's: what Linkerd's uses, so that policies written for one fit the other. */
export const CONTROLLER_UID = 2103;
const MB = 1_000_000;

const nodeConfig: ImageConfig = {
  WorkingDir: APP,
  Env: ['PATH=/usr/local/bin:/usr/bin:/bin', `NODE_COMPILE_CACHE=${COMPILE_CACHE}`, 'NODE_ENV=production'],
};

export const imageTag = (name: string): string => `nodemesh/${name}:${ownVersion()}`;
/** An application in tests: curl, busybox, Node.js. */
export const TEST_IMAGE = 'nodemesh-kc/application:1';

export const imageLayouts: readonly ImageLayout[] = [
  {
    name: 'controller',
    tag: imageTag('controller'),
    config: { ...nodeConfig, User: String(CONTROLLER_UID), Cmd: ['node', 'identity/main.ts'] },
    base: true,
    entries: ['identity/main.ts', 'destination/main.ts', 'webhook/main.ts'],
    copies: {},
    programs: [],
    bytesMax: 260 * MB,
    uid: CONTROLLER_UID,
  },
  {
    name: 'agent',
    tag: imageTag('agent'),
    config: { ...nodeConfig, Entrypoint: ['/app/build/agent-parent', 'node', 'agent/main.ts'] },
    base: true,
    entries: ['agent/main.ts', 'daemonset/install.ts', 'daemonset/remove.ts'],
    copies: {
      'build/bpf': `${APP}/build/bpf`,
      'build/cni/nodemesh-cni': `${APP}/build/cni/nodemesh-cni`,
      'build/agent-parent': `${APP}/build/agent-parent`,
      'build/connect-test': `${APP}/build/connect-test`,
      'build/probe': `${APP}/build/probe`,
    },
    programs: [],
    bytesMax: 250 * MB,
    uid: 0,
  },
  {
    name: 'keeper',
    tag: imageTag('keeper'),
    config: { Entrypoint: ['/keeper'] },
    base: false,
    entries: [],
    copies: { 'build/keeper': '/keeper' },
    programs: [],
    bytesMax: 3 * MB,
    uid: 0,
  },
  {
    name: 'application',
    tag: TEST_IMAGE,
    config: { Env: ['PATH=/usr/local/bin:/usr/bin:/bin'], Cmd: ['sleep', '1000000'] },
    base: true,
    entries: [],
    copies: {},
    programs: ['/usr/bin/curl', '/usr/bin/busybox'],
    bytesMax: 200 * MB,
    uid: 0,
  },
];
