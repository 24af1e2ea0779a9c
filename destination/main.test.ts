// SPDX-License-Identifier: Apache-2.0
// The real processes: destination gets its certificate from identity, serves, and stops on SIGTERM.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, it } from 'node:test';
import { makeTokenKey, signLocalToken } from '#lib/registry-folder/token-signer.ts';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';

const root = join(import.meta.dirname, '..');
const account = (name: string) => `${name}.nodemesh.serviceaccount.identity.linkerd.cluster.local`;

interface Running {
  readonly child: ChildProcess;
  /** Resolves with the first log line that has the message. */
  said(message: string): Promise<{ address: { port: number }; admin: { port: number } }>;
}

describe('destination as a process', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-destination-main-'));
  const file = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  const children: ChildProcess[] = [];
  let environment: Record<string, string>;

  const run = (program: string, env: Record<string, string>): Running => {
    const child = spawn(process.execPath, [join(root, program)], {
      env: { PATH: process.env['PATH'], ...environment, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    children.push(child);
    const lines = createInterface({ input: child.stdout });
    return {
      child,
      said: (message) =>
        new Promise((resolve, reject) => {
          child.once('exit', (code) =>
            reject(new Error(`${program} ended with ${code} before "${message}"`)),
          );
          lines.on('line', (line) => {
            const entry = JSON.parse(line) as {
              msg: string;
              address: { port: number };
              admin: { port: number };
            };
            if (entry.msg === message) resolve(entry);
          });
        }),
    };
  };

  before(async () => {
    const authority = await makeTestAuthority();
    const key = makeTokenKey();
    const pod = { name: 'destination-0', uid: 'uid-destination' };
    const objects = [
      {
        apiVersion: 'v1',
        kind: 'ServiceAccount',
        metadata: { name: 'linkerd-destination', namespace: 'nodemesh', uid: 'uid-sa' },
      },
      { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1', uid: 'uid-n1' } },
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { ...pod, namespace: 'nodemesh' },
        spec: { nodeName: 'n1', serviceAccountName: 'linkerd-destination', containers: [{ name: 'main' }] },
        status: { phase: 'Running' },
      },
    ];
    const registry = mkdtempSync(join(folder, 'registry-'));
    writeFileSync(
      join(registry, 'all.yaml'),
      objects.map((object) => `---\n${JSON.stringify(object)}\n`).join(''),
    );
    const token = signLocalToken(
      {
        namespace: 'nodemesh',
        serviceAccount: { name: 'linkerd-destination', uid: 'uid-sa' },
        pod,
        node: { name: 'n1', uid: 'uid-n1' },
        audiences: ['identity.l5d.io'],
        issuedAtMs: Date.now(),
        lifetimeMs: 3_600_000,
      },
      key.privateKeyPem,
    );
    environment = {
      NODEMESH_LISTEN: '127.0.0.1:0',
      NODEMESH_POLICY_LISTEN: '127.0.0.1:0',
      NODEMESH_ADMIN_LISTEN: '127.0.0.1:0',
      NODEMESH_REGISTRY: `folder:${registry}`,
      NODEMESH_TRUST_ANCHORS_FILE: file('anchors.pem', authority.anchorPem),
      NODEMESH_ISSUER_CERT_FILE: file('issuer.pem', authority.issuerPem),
      NODEMESH_ISSUER_KEY_FILE: file('issuer.key', authority.issuerKeyPem),
      NODEMESH_TOKEN_KEY_FILE: file('token.pem', key.publicKeyPem),
      NODEMESH_IDENTITY_TOKEN_FILE: file('token', token),
      NODEMESH_IDENTITY_NAME: account('linkerd-identity'),
    };
  });

  after(async () => {
    for (const child of children) {
      if (child.exitCode !== null) continue;
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    rmSync(folder, { recursive: true });
  });

  it('serves once it has a certificate, and ends on SIGTERM', async () => {
    const identity = await run('identity/main.ts', {}).said('identity is serving');
    const destination = run('destination/main.ts', {
      NODEMESH_IDENTITY_ADDRESS: `127.0.0.1:${identity.address.port}`,
    });
    const { admin } = await destination.said('destination is serving');
    const ask = async (path: string) => {
      const response = await fetch(`http://127.0.0.1:${admin.port}${path}`);
      return { status: response.status, text: await response.text() };
    };
    assert.deepEqual(await ask('/live'), { status: 200, text: 'live\n' });
    assert.deepEqual(await ask('/ready'), { status: 200, text: 'ready\n' });
    assert.equal((await ask('/other')).status, 404);
    assert.match((await ask('/metrics')).text, /# TYPE nodemesh_destination_streams gauge/);
    destination.child.kill('SIGTERM');
    const [code] = (await once(destination.child, 'exit')) as [number];
    assert.equal(code, 0);
  });

  it('says every wrong setting at once', async () => {
    const child = spawn(process.execPath, [join(root, 'destination/main.ts')], {
      env: {
        PATH: process.env['PATH'],
        NODEMESH_LISTEN: 'nowhere',
        NODEMESH_DEFAULT_INBOUND_POLICY: 'open',
        NODEMESH_REGISTRY: '?',
      },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    children.push(child);
    let text = '';
    child.stderr.setEncoding('utf8').on('data', (part: string) => {
      text += part;
    });
    const [code] = (await once(child, 'close')) as [number];
    assert.equal(code, 1);
    for (const part of [
      'NODEMESH_LISTEN="nowhere": expected ip:port',
      'NODEMESH_REGISTRY="?": expected kubernetes',
      'NODEMESH_DEFAULT_INBOUND_POLICY="open": expected one of',
    ]) {
      assert.ok(text.includes(part), text);
    }
  });
});
