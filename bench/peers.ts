// SPDX-License-Identifier: Apache-2.0
// Starts the proxies that we are compared with, in the network namespaces of unmeshed pods, as sidecars would
// stand there: haproxy and nginx with one hop, two nginx with mutual TLS between them.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { withDescendants } from './processes.ts';

export interface Peer {
  /** Every process of it. */
  readonly pids: () => number[];
  readonly stop: () => Promise<void>;
}

export interface PeerPlan {
  readonly name: string;
  /** Path of the network namespace. */
  readonly netns: string;
  readonly cores: string;
  readonly config: 'haproxy.cfg' | 'nginx.conf' | 'nginx-mtls-client.conf' | 'nginx-mtls-server.conf';
  readonly listen: string;
  readonly origin: string;
  /** Where the filled-in configuration and the certificates lie. */
  readonly dir: string;
}

export async function startPeer(plan: PeerPlan): Promise<Peer> {
  const template = readFileSync(join(import.meta.dirname, 'peers', plan.config), 'utf8');
  const path = join(plan.dir, `${plan.name}-${plan.config}`);
  writeFileSync(
    path,
    template
      .replaceAll('@LISTEN@', plan.listen)
      .replaceAll('@ORIGIN@', plan.origin)
      .replaceAll('@DIR@', plan.dir),
  );
  const program =
    plan.config === 'haproxy.cfg' ? ['haproxy', '-f', path] : ['nginx', '-e', 'stderr', '-c', path];
  const child = spawn('nsenter', [`--net=${plan.netns}`, 'taskset', '-c', plan.cores, ...program], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
  const exited = once(child, 'exit');
  const port = plan.listen.slice(plan.listen.lastIndexOf(':') + 1);
  await waitFor(`${plan.name} to listen on ${plan.listen}`, () => {
    if (child.exitCode !== null) throw new Error(`${plan.name} ended at once: ${output}`);
    return listens(plan.netns, port);
  });
  return {
    pids: () => withDescendants([child.pid ?? 0]),
    stop: async () => {
      child.kill('SIGTERM');
      await exited;
    },
  };
}

const listens = (netns: string, port: string): boolean =>
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
}
