// SPDX-License-Identifier: Apache-2.0
// Starts the proxies that we are compared with, in the network namespaces of unmeshed pods, as sidecars would
// stand there, and makes certificates for those that speak mutual TLS with each other.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Address } from './load.ts';
import { withDescendants } from './processes.ts';

export interface Peer {
  /** Every process of it. */
  readonly pids: () => number[];
  readonly stop: () => Promise<void>;
}

export type PeerConfig = `haproxy${string}.cfg` | `nginx${string}.conf` | `nghttpx${string}.conf`;

export interface PeerPlan {
  readonly name: string;
  /** Path of the network namespace. */
  readonly netns: string;
  readonly cores: string;
  readonly config: PeerConfig;
  readonly listen: Address;
  readonly origin: Address;
  /** Where the filled-in configuration and the certificates lie. */
  readonly dir: string;
}

function programOf(config: PeerConfig, path: string): string[] {
  if (config.startsWith('haproxy')) return ['haproxy', '-f', path];
  if (config.startsWith('nginx')) return ['nginx', '-e', 'stderr', '-c', path];
  return ['nghttpx', `--conf=${path}`];
}

export async function startPeer({
  name,
  netns,
  cores,
  config,
  listen,
  origin,
  dir,
}: PeerPlan): Promise<Peer> {
  const template = readFileSync(join(import.meta.dirname, 'peers', config), 'utf8');
  const path = join(dir, `${name}-${config}`);
  const filled = template
    .replaceAll('@LISTEN@', `${listen.host}:${listen.port}`)
    .replaceAll('@LISTEN,@', `${listen.host},${listen.port}`)
    .replaceAll('@ORIGIN@', `${origin.host}:${origin.port}`)
    .replaceAll('@ORIGIN,@', `${origin.host},${origin.port}`)
    .replaceAll('@DIR@', dir);
  writeFileSync(path, filled);
  const program = programOf(config, path);
  const child = spawn('nsenter', [`--net=${netns}`, 'taskset', '-c', cores, ...program], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
  const exited = once(child, 'exit');
  await waitFor(`${name} to listen on port ${listen.port}`, () => {
    if (child.exitCode !== null) throw new Error(`${name} ended at once: ${output}`);
    return listens(netns, listen.port);
  });
  return {
    pids: () => withDescendants([child.pid ?? 0]),
    stop: async () => {
      child.kill('SIGTERM');
      await exited;
    },
  };
}

const listens = (netns: string, port: number): boolean =>
  execFileSync('nsenter', [`--net=${netns}`, 'ss', '-Hltn', `sport = :${port}`], {
    encoding: 'utf8',
  }).trim() !== '';

export async function waitFor(
  what: string,
  isTrue: () => boolean | Promise<boolean>,
  limitMs = 30_000,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await isTrue())) {
    if (performance.now() > deadline) throw new Error(`waited ${limitMs} ms in vain for ${what}`);
    await sleep(50);
  }
}

/** An anchor and a certificate each for client and server, P-256 like the mesh's own. */
export function makeCertificates(dir: string): void {
  const openssl = (args: readonly string[]): void => {
    execFileSync('openssl', args, { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
  };
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  openssl(['req', '-x509', ...key, '-subj', '/CN=anchor', '-keyout', 'anchor.key', '-out', 'anchor.crt']);
  for (const name of ['client', 'server']) {
    const names = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}.bench`];
    const issuer = [
      '-addext',
      'basicConstraints=critical,CA:false',
      '-CA',
      'anchor.crt',
      '-CAkey',
      'anchor.key',
    ];
    openssl(['req', '-x509', ...key, ...names, ...issuer, '-keyout', `${name}.key`, '-out', `${name}.crt`]);
  }
  // haproxy reads both from one file.
  for (const name of ['client', 'server']) {
    const both = ['crt', 'key'].map((kind) => readFileSync(join(dir, `${name}.${kind}`), 'utf8'));
    writeFileSync(join(dir, `${name}.pem`), both.join(''));
  }
}
