// SPDX-License-Identifier: Apache-2.0
// The scale benchmark's cluster in a folder.

import { mkdtempSync, rmSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tokenAudiences } from '#lib/registry/token-review.ts';
import { makeTokenKey, signLocalToken } from '#lib/registry-folder/token-signer.ts';
import {
  agentAccount,
  agentManifest,
  agentName,
  type Manifest,
  MESH_NAMESPACE,
  namespaceManifests,
  nodeManifest,
  nodeName,
  podManifest,
  podsOf,
  serviceManifest,
} from './population.ts';
import { inParallel, type Stage } from './stage.ts';

const uidOf = ({ kind, metadata }: Manifest): string => `uid-${kind}-${metadata.name}`;

export function createFolderStage(): Stage {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-scale-'));
  const key = makeTokenKey();
  const write = async (name: string, manifests: readonly Manifest[]): Promise<void> => {
    const texts = manifests.map((one) =>
      JSON.stringify({ ...one, metadata: { uid: uidOf(one), ...one.metadata } }),
    );
    // Not read before it is whole.
    await writeFile(join(folder, `.${name}`), texts.map((text) => `---\n${text}\n`).join(''));
    await rename(join(folder, `.${name}`), join(folder, `${name}.yaml`));
  };
  return {
    source: { kind: 'folder', folder, tokenKeyPem: key.publicKeyPem },
    async make(population) {
      const { agents, services } = population;
      await write('cluster', [
        ...namespaceManifests(),
        agentAccount,
        ...Array.from({ length: agents }, (_, index) => nodeManifest(index)),
        ...Array.from({ length: agents }, (_, index) => agentManifest(index)),
        ...Array.from({ length: services }, (_, index) => serviceManifest(index)),
      ]);
      await inParallel(podsOf(population), 32, (pod) => write(pod.name, [podManifest(pod)]));
    },
    agentToken: (index) =>
      Promise.resolve(
        signLocalToken(
          {
            namespace: MESH_NAMESPACE,
            serviceAccount: { name: 'nodemesh-agent', uid: uidOf(agentAccount) },
            pod: { name: agentName(index), uid: uidOf(agentManifest(index)) },
            node: { name: nodeName(index), uid: uidOf(nodeManifest(index)) },
            audiences: [tokenAudiences.nodeStream],
            issuedAtMs: Date.now(),
            lifetimeMs: 3_600_000,
          },
          key.privateKeyPem,
        ),
      ),
    setReady: (pod, ready) => write(pod.name, [podManifest(pod, ready)]),
    close() {
      rmSync(folder, { recursive: true, force: true });
      return Promise.resolve();
    },
  };
}
