// SPDX-License-Identifier: Apache-2.0
// What `mesh install` prints can be a resource of kustomize: patched, relabelled and with another image.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { parseAllDocuments, stringify } from 'yaml';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { definitionGroups } from '../../install/crds/definitions.ts';
import { controlPlaneObjects } from '../../install/manifest.ts';
import { printObjects } from '../../install/print.ts';
import { renderObjects } from '../../install/render-objects.ts';
import { checkValues } from '../../install/values.ts';
import { goTool } from '../tools/go-tool.ts';

const run = promisify(execFile);

interface Built {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly labels?: Readonly<Record<string, string>> };
}

describe('kustomize', () => {
  let kustomize: string;
  let folder: string;
  let count: number;

  before(async () => {
    kustomize = await goTool('kustomize');
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-kustomize-'));
    const authority = await makeTestAuthority();
    const { values } = checkValues({
      identityTrustAnchorsPEM: authority.anchorPem,
      identity: { issuer: { tls: { crtPEM: authority.issuerPem, keyPEM: authority.issuerKeyPem } } },
    });
    const objects = [
      ...renderObjects(definitionGroups, { values, namespace: 'nodemesh', creator: 'test' }),
      ...controlPlaneObjects({ values, namespace: 'nodemesh', version: '1.2.3' }),
    ];
    count = objects.length;
    writeFileSync(join(folder, 'mesh.yaml'), printObjects(objects, 'yaml'));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  async function build(kustomization: object): Promise<Built[]> {
    writeFileSync(
      join(folder, 'kustomization.yaml'),
      stringify({ apiVersion: 'kustomize.config.k8s.io/v1beta1', kind: 'Kustomization', ...kustomization }),
    );
    const { stdout } = await run(kustomize, ['build', folder], { maxBuffer: 64 * 1024 * 1024 });
    return parseAllDocuments(stdout).map((document) => document.toJS() as Built);
  }

  it('takes the output as it is', async () => {
    assert.equal((await build({ resources: ['mesh.yaml'] })).length, count);
  });

  it('changes images, labels and single fields', async () => {
    const objects = await build({
      resources: ['mesh.yaml'],
      images: [{ name: 'nodemesh/controller', newName: 'example.com/mirror/controller', newTag: '9' }],
      labels: [{ pairs: { team: 'mesh' }, includeSelectors: false }],
      patches: [
        {
          patch: stringify({
            apiVersion: 'apps/v1',
            kind: 'Deployment',
            metadata: { name: 'linkerd-identity', namespace: 'nodemesh' },
            spec: {
              template: {
                spec: {
                  containers: [{ name: 'identity', env: [{ name: 'NODEMESH_LOG_LEVEL', value: 'warn' }] }],
                },
              },
            },
          }),
        },
      ],
    });
    const identity = objects.find(
      ({ kind, metadata }) => kind === 'Deployment' && metadata.name === 'linkerd-identity',
    );
    const text = JSON.stringify(identity);
    assert.match(text, /"image":"example\.com\/mirror\/controller:9"/);
    assert.match(text, /\{"name":"NODEMESH_LOG_LEVEL","value":"warn"\}/);
    assert.match(text, /"name":"NODEMESH_TRUST_DOMAIN"/, 'the other settings are still there');
    assert.ok(objects.every(({ metadata }) => metadata.labels?.['team'] === 'mesh'));
  });
});
