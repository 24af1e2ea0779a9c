// SPDX-License-Identifier: Apache-2.0
// The process: what it says about wrong settings, and how it ends.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { TestCluster } from './test-cluster.ts';

const main = join(import.meta.dirname, 'main.ts');

describe('the identity process', () => {
  let test: TestCluster;
  let environment: Record<string, string> = {};
  let children: ChildProcess[] = [];
  beforeEach(async () => {
    test = new TestCluster();
    children = [];
    const authority = await makeTestAuthority();
    const file = (name: string, text: string): string => {
      writeFileSync(join(test.directory, name), text);
      return join(test.directory, name);
    };
    environment = {
      NODEMESH_LISTEN: '127.0.0.1:0',
      NODEMESH_ADMIN_LISTEN: '127.0.0.1:0',
      NODEMESH_TRUST_ANCHORS_FILE: file('anchors.pem', authority.anchorPem),
      NODEMESH_ISSUER_CERT_FILE: file('crt.pem', authority.issuerPem),
      NODEMESH_ISSUER_KEY_FILE: file('key.pem', authority.issuerKeyPem),
      NODEMESH_TOKEN_KEY_FILE: file('token.pem', test.tokenKey.publicKeyPem),
      NODEMESH_REGISTRY: `folder:${test.directory}`,
    };
  });
  afterEach(async () => {
    for (const child of children) child.kill('SIGKILL');
    await test.close();
  });

  function run(env: Record<string, string>): ChildProcess {
    const child = spawn(process.execPath, [main], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    children.push(child);
    return child;
  }

  async function failure(env: Record<string, string>): Promise<string> {
    const child = run(env);
    let text = '';
    child.stderr?.on('data', (data: Buffer) => (text += data.toString()));
    const [code] = (await once(child, 'close')) as [number];
    assert.equal(code, 1);
    return text;
  }

  it('names every wrong setting in one line and ends', async () => {
    const text = await failure({ NODEMESH_LISTEN: 'nowhere', NODEMESH_REGISTRY: 'elsewhere' });
    assert.equal(text.trim().split('\n').length, 1);
    assert.match(text, /NODEMESH_LISTEN="nowhere": expected ip:port/);
    assert.match(
      text,
      /NODEMESH_REGISTRY="elsewhere": expected kubernetes, kubernetes:\/path or folder:\/path/,
    );
    assert.match(text, /NODEMESH_TRUST_ANCHORS_FILE is not set/);
  });

  it('names a file that it cannot read', async () => {
    const text = await failure({ ...environment, NODEMESH_ISSUER_KEY_FILE: '/nowhere/key.pem' });
    assert.match(text, /^identity: cannot read \/nowhere\/key\.pem: ENOENT[^\n]*\n$/);
  });

  it('serves until SIGTERM and ends by itself', async () => {
    const child = run(environment);
    assert.ok(child.stdout);
    for await (const line of createInterface(child.stdout)) {
      const { msg, admin } = JSON.parse(line) as { msg: string; admin?: { port: number } };
      if (msg === 'identity is serving') {
        const response = await fetch(`http://127.0.0.1:${admin?.port}/live`);
        assert.equal(response.status, 200);
        child.kill('SIGTERM');
      }
    }
    const [code] = child.exitCode === null ? ((await once(child, 'exit')) as [number]) : [child.exitCode];
    assert.equal(code, 0);
  });
});
