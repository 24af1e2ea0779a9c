// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { parseAllDocuments } from 'yaml';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { definitionGroups, definitions, nameOf } from '../../install/crds/definitions.ts';
import { renderObjects } from '../../install/render-objects.ts';
import { checkValues, type ValuesMap } from '../../install/values.ts';
import type { ClusterObject } from './cluster.ts';
import { install, type InstallArguments } from './install.ts';
import { memoryCluster, type MemoryCluster } from './memory-cluster.ts';
import { prune } from './prune.ts';
import { Refusal } from './refusal.ts';
import { uninstall } from './uninstall.ts';
import { upgrade, type UpgradeArguments } from './upgrade.ts';

const authority = await makeTestAuthority();
const wallMs = Date.now();
const version = '1.2.3';
const namespace = 'nodemesh';

const issuerOf = (of: TestAuthority): ValuesMap => ({
  identityTrustAnchorsPEM: of.anchorPem,
  identity: { issuer: { tls: { crtPEM: of.issuerPem, keyPEM: of.issuerKeyPem } } },
});

let notes: string[];
const note = (line: string): void => void notes.push(line);
let cluster: MemoryCluster;

const objectsOf = (text: string): ClusterObject[] =>
  parseAllDocuments(text).map((document) => document.toJS() as ClusterObject);
const names = (text: string): string[] =>
  objectsOf(text).map(({ kind, metadata }) => `${kind ?? ''}/${metadata.name}`);
const find = (text: string, kind: string, name: string): ClusterObject | undefined =>
  objectsOf(text).find((object) => object.kind === kind && object.metadata.name === name);

const ownDefinitions = (): readonly object[] =>
  renderObjects(definitionGroups, { values: checkValues({}).values, namespace, creator: 'x' });

const installWith = (more: Partial<InstallArguments> = {}): Promise<string> =>
  install({ namespace, output: 'yaml', crds: false, values: {}, cluster, version, wallMs, note, ...more });

const upgradeWith = (more: Partial<UpgradeArguments> = {}): Promise<string> =>
  upgrade({
    cluster,
    namespace,
    output: 'yaml',
    crds: false,
    force: false,
    manifest: undefined,
    change: (stored) => Promise.resolve(stored),
    newIssuer: false,
    newAnchors: false,
    version,
    wallMs,
    note,
    ...more,
  });

async function installed(values: ValuesMap = issuerOf(authority)): Promise<string> {
  cluster.add(ownDefinitions());
  const text = await installWith({ values });
  cluster.add(objectsOf(text));
  return text;
}

beforeEach(() => {
  notes = [];
  cluster = memoryCluster();
});

describe('mesh install', () => {
  it('prints the same bytes for the same values', async () => {
    const values = issuerOf(authority);
    const once = await installWith({ values, cluster: undefined });
    assert.equal(await installWith({ values, cluster: undefined }), once);
    assert.match(once, /^---\napiVersion: v1\nkind: Namespace\n/);
    assert.deepEqual(notes, []);
  });

  it('makes an issuer that its own identity can use, when none is given', async () => {
    cluster.add(ownDefinitions());
    const text = await installWith();
    const secret = find(text, 'Secret', 'linkerd-identity-issuer');
    assert.match(JSON.stringify(secret?.['stringData']), /BEGIN CERTIFICATE.*BEGIN PRIVATE KEY/);
    cluster.add(objectsOf(text));
    // Checks them as identity does.
    assert.equal(await upgradeWith(), text);
  });

  it('needs an issuer where no cluster is asked', async () => {
    await assert.rejects(
      installWith({ cluster: undefined }),
      /--ignore-cluster needs an issuer; give --identity-/,
    );
  });

  it('takes issuer and anchors together or not at all', async () => {
    const { identityTrustAnchorsPEM, identity } = issuerOf(authority);
    await assert.rejects(
      installWith({ values: { identityTrustAnchorsPEM }, cluster: undefined }),
      /a certificate file must be specified if other credentials are provided/,
    );
    await assert.rejects(
      installWith({ values: { identity }, cluster: undefined }),
      /a trust anchors file must be specified if other credentials are provided/,
    );
  });

  it('refuses an issuer that does not lead to the anchors', async () => {
    const other = await makeTestAuthority();
    const values = { ...issuerOf(authority), identityTrustAnchorsPEM: other.anchorPem };
    await assert.rejects(
      installWith({ values, cluster: undefined }),
      /failed to validate issuer credentials/,
    );
  });

  it("takes the anchors from the other program's Secret, and prints none of its objects", async () => {
    cluster.add(ownDefinitions());
    const external = { identity: { issuer: { scheme: 'kubernetes.io/tls' } } };
    await assert.rejects(installWith({ values: external }), /there is no Secret linkerd-identity-issuer/);
    cluster.add([
      {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'linkerd-identity-issuer', namespace },
        stringData: { 'ca.crt': authority.anchorPem, 'tls.crt': 'x', 'tls.key': 'x' },
      },
    ]);
    const text = await installWith({ values: external });
    assert.equal(find(text, 'Secret', 'linkerd-identity-issuer'), undefined);
    const roots = find(text, 'ConfigMap', 'linkerd-identity-trust-roots');
    assert.deepEqual(roots?.['data'], { 'ca-bundle.crt': authority.anchorPem });
    await assert.rejects(
      installWith({ values: external, cluster: undefined }),
      /--ignore-cluster is not supported when --identity-external-issuer=true/,
    );
  });

  it('asks for the CRDs first', async () => {
    await assert.rejects(
      installWith(),
      /nodemesh CRDs must be installed first\. Run mesh install with the --crds flag\./,
    );
    cluster.add(ownDefinitions().slice(1));
    await assert.rejects(installWith(), /Missing: authorizationpolicies\.policy\.linkerd\.io v1alpha1/);
  });

  it('refuses a second installation with the way out', async () => {
    await installed();
    const again = 'Run the command `mesh upgrade`, if you are looking to upgrade nodemesh.';
    await assert.rejects(installWith(), (error) => error instanceof Refusal && error.message.includes(again));
    await assert.rejects(installWith({ crds: true }), /ConfigMap\/linkerd-config already exists/);
    await assert.rejects(installWith({ namespace: 'other' }), /is installed in the namespace 'nodemesh'/);
  });

  it("does not put itself over Linkerd's control plane", async () => {
    cluster.add(ownDefinitions());
    const metadata = { name: 'linkerd-config', namespace: 'linkerd' };
    cluster.add([{ apiVersion: 'v1', kind: 'ConfigMap', metadata }]);
    await assert.rejects(
      installWith({ namespace: 'linkerd' }),
      /It belongs to Linkerd: remove its control plane first/,
    );
    await installWith();
  });

  it('says which values mean nothing', async () => {
    await installWith({ values: { ...issuerOf(authority), disableHeartBeat: true }, cluster: undefined });
    assert.match(notes.join(), /mean nothing in a mesh without sidecars.*disableHeartBeat/);
  });

  it('prints one JSON object a line with -o json', async () => {
    const values = issuerOf(authority);
    const lines = (await installWith({ values, cluster: undefined, output: 'json' })).trimEnd().split('\n');
    const yaml = await installWith({ values, cluster: undefined });
    assert.deepEqual(
      lines.map((line) => JSON.parse(line) as unknown),
      objectsOf(yaml),
    );
  });
});

describe('mesh install --crds', () => {
  it("prints Linkerd's kinds as ours, and never the Gateway API's", async () => {
    const text = await installWith({ crds: true });
    assert.deepEqual(
      names(text),
      definitions.map((one) => `CustomResourceDefinition/${nameOf(one)}`),
    );
    for (const { metadata } of objectsOf(text))
      assert.equal(metadata.labels?.['nodemesh.io/control-plane-ns'], namespace);
    assert.doesNotMatch(text, /gateway\.networking\.k8s\.io/);
    assert.match(notes.join('\n'), /Next, run `mesh install \| kubectl apply -f -`/);
  });

  const foreign = (name: string, ...served: readonly string[]): object => ({
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name },
    spec: { versions: ['v1beta2', 'v1beta3'].map((one) => ({ name: one, served: served.includes(one) })) },
  });

  it('leaves those of somebody else as they are', async () => {
    cluster.add([foreign('servers.policy.linkerd.io', 'v1beta3')]);
    const text = await installWith({ crds: true });
    assert.ok(!names(text).includes('CustomResourceDefinition/servers.policy.linkerd.io'));
    assert.match(notes.join(), /Left as they are.*servers\.policy\.linkerd\.io/);
  });

  it('fails where somebody else serves only versions that are not read', async () => {
    cluster.add([foreign('servers.policy.linkerd.io', 'v1beta2')]);
    await assert.rejects(
      installWith({ crds: true }),
      /do not serve .*servers\.policy\.linkerd\.io \(v1beta3\)/,
    );
  });
});

describe('mesh upgrade', () => {
  it('changes nothing by itself', async () => {
    const text = await installed();
    assert.equal(await upgradeWith(), text);
  });

  it('keeps the values of the installation and adds those of the command line', async () => {
    await installed({ ...issuerOf(authority), controllerReplicas: 2 });
    const change = (stored: ValuesMap) => Promise.resolve({ ...stored, controllerLogLevel: 'debug' });
    const first = await upgradeWith({ change });
    cluster.add(objectsOf(first));
    const second = await upgradeWith();
    assert.equal(second, first);
    assert.match(second, /replicas: 2/);
    assert.match(second, /value: debug/);
  });

  it('keeps an issuer and anchors that were rotated in the cluster since', async () => {
    await installed();
    const rotated = await makeTestAuthority();
    const both = `${authority.anchorPem}${rotated.anchorPem}`;
    cluster.add([
      {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'linkerd-identity-issuer', namespace },
        stringData: { 'crt.pem': rotated.issuerPem, 'key.pem': rotated.issuerKeyPem },
      },
      {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name: 'linkerd-identity-trust-roots', namespace },
        data: { 'ca-bundle.crt': both },
      },
    ]);
    const text = await upgradeWith();
    assert.deepEqual(find(text, 'Secret', 'linkerd-identity-issuer')?.['stringData'], {
      'crt.pem': rotated.issuerPem,
      'key.pem': rotated.issuerKeyPem,
    });
    assert.deepEqual(find(text, 'ConfigMap', 'linkerd-identity-trust-roots')?.['data'], {
      'ca-bundle.crt': both,
    });
  });

  it('refuses a new issuer that does not lead to the anchors, unless forced', async () => {
    await installed();
    const { identity } = issuerOf(await makeTestAuthority());
    const change = (stored: ValuesMap) => Promise.resolve({ ...stored, identity });
    await assert.rejects(upgradeWith({ change, newIssuer: true }), /failed to validate issuer credentials/);
    await upgradeWith({ change, newIssuer: true, force: true });
  });

  it('leaves an issuer of another program to it', async () => {
    await installed({
      identityTrustAnchorsPEM: authority.anchorPem,
      identity: { issuer: { scheme: 'kubernetes.io/tls' } },
    });
    await upgradeWith();
    await assert.rejects(upgradeWith({ newIssuer: true }), /external cert management solution/);
  });

  it('takes the values from an install manifest', async () => {
    const text = await installed({ ...issuerOf(authority), controllerReplicas: 2 });
    const empty = memoryCluster();
    empty.add(ownDefinitions());
    const manifest = { source: 'install.yaml', text };
    assert.equal(await upgradeWith({ cluster: empty, manifest }), text);
    await assert.rejects(
      upgradeWith({ manifest: { source: 'x.yaml', text: 'kind: Secret\nmetadata: {name: x}\n' } }),
      /x\.yaml holds no Secret linkerd-config-overrides/,
    );
  });

  it('sends users of Helm to Helm', async () => {
    cluster.add(ownDefinitions());
    await assert.rejects(
      upgradeWith(),
      /Could not find the linkerd-config-overrides secret\.\nIf nodemesh was installed with Helm/,
    );
  });
});

describe('mesh uninstall', () => {
  it('names what is ours, and keeps the CRDs unless asked', async () => {
    await installed();
    cluster.add([{ kind: 'ClusterRole', metadata: { name: 'linkerd-linkerd-identity' } }]);
    const options = { cluster, namespace, output: 'yaml', force: false, note } as const;
    const kept = names(await uninstall({ ...options, crds: false }));
    assert.deepEqual([kept[0], kept.at(-1)], ['ClusterRole/nodemesh-destination', 'Namespace/nodemesh']);
    assert.ok(
      !kept.some((name) => name.includes('linkerd-linkerd') || name.startsWith('Custom')),
      kept.join(),
    );
    const all = names(await uninstall({ ...options, crds: true }));
    assert.ok(all.includes('CustomResourceDefinition/servers.policy.linkerd.io'));
  });

  it('asks for the objects of each kind whose CRD it names, and tells what goes', async () => {
    await installed();
    const asked: string[] = [];
    const servers = '/apis/policy.linkerd.io/v1alpha1/servers';
    const asking: MemoryCluster = {
      ...cluster,
      list(path, labelSelector) {
        asked.push(path);
        return path === servers
          ? Promise.resolve([{ metadata: { name: 'one' } }, { metadata: { name: 'two' } }])
          : cluster.list(path, labelSelector);
      },
    };
    const options = { cluster: asking, namespace, output: 'yaml', force: false, note } as const;
    await uninstall({ ...options, crds: false });
    assert.ok(!asked.includes(servers));
    const all = names(await uninstall({ ...options, crds: true }));
    for (const name of all.filter((one) => one.startsWith('CustomResourceDefinition/'))) {
      const [, plural = '', group = ''] = /\/([^.]+)\.(.+)$/.exec(name) ?? [];
      assert.ok(
        asked.some((path) => path.startsWith(`/apis/${group}/`) && path.endsWith(`/${plural}`)),
        name,
      );
    }
    assert.deepEqual(notes, ['With the CRDs go all objects of their kinds: 2 servers.policy.linkerd.io']);
  });

  it('refuses while pods are in the mesh, and names them', async () => {
    await installed();
    const status = { conditions: [{ type: 'nodemesh.io/Enrolled', status: 'True' }] };
    cluster.add([{ kind: 'Pod', metadata: { name: 'web', namespace: 'shop' }, status }]);
    const options = { cluster, namespace, output: 'yaml', crds: false, note } as const;
    await assert.rejects(uninstall({ ...options, force: false }), /\t\* shop\/web$/);
    assert.notEqual(await uninstall({ ...options, force: true }), '');
  });

  it("leaves the namespace of Helm's users, and takes what is in it", async () => {
    const text = await installed();
    const helm = memoryCluster();
    helm.add(objectsOf(text).filter(({ kind }) => kind !== 'Namespace'));
    const found = names(
      await uninstall({ cluster: helm, namespace, output: 'yaml', crds: false, force: false, note }),
    );
    assert.ok(found.includes('Deployment/linkerd-identity'));
    assert.ok(!found.includes('Namespace/nodemesh'));
  });

  it('says when there is nothing', async () => {
    const options = { cluster, namespace, output: 'yaml', crds: false, force: false, note } as const;
    assert.equal(await uninstall(options), '');
    assert.deepEqual(notes, ['No resources found to uninstall']);
  });
});

describe('mesh prune', () => {
  it('names only what is ours and no longer rendered', async () => {
    await installed();
    const options = { cluster, namespace, output: 'yaml', version } as const;
    assert.equal(await prune(options), '');
    const labels = { 'nodemesh.io/control-plane-ns': namespace };
    cluster.add([
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'old', namespace, labels } },
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'theirs', namespace } },
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'copied', namespace: 'shop', labels } },
      { kind: 'ClusterRole', metadata: { name: 'nodemesh-old', labels } },
    ]);
    assert.deepEqual(names(await prune(options)), ['ConfigMap/old', 'ClusterRole/nodemesh-old']);
  });
});
