// SPDX-License-Identifier: Apache-2.0
// Real Helm renders the charts to the same objects that `mesh install` and `mesh install-cni` print: with the defaults,
// with --ha, with an external issuer, and with each value changed once.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { parse, parseAllDocuments } from 'yaml';
import { ownVersion } from '#lib/version/own-version.ts';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { cniObjects } from '../../install/cni.ts';
import { cniValues } from '../../install/cni-values-table.ts';
import { definitionGroups, definitions } from '../../install/crds/definitions.ts';
import { controlPlaneObjects } from '../../install/manifest.ts';
import { renderObjects } from '../../install/render-objects.ts';
import { checkValues, mergeValues, type ValuesMap, valuesOf } from '../../install/values.ts';
import type { Field } from '../../install/value-fields.ts';
import { fields, highAvailabilityValues } from '../../install/values-table.ts';
import { goTool } from '../tools/go-tool.ts';

const run = promisify(execFile);
const root = resolve(import.meta.dirname, '../..');
const NAMESPACE = 'mesh-ns';

type Plain = Readonly<Record<string, unknown>>;

interface Rendered extends Plain {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly annotations: Record<string, string> };
  readonly data?: Readonly<Record<string, string>>;
}

/** Another value than the default, for each value whose type does not say one by itself. */
const flipped: Readonly<Record<string, unknown>> = {
  clusterDomain: 'example.internal',
  clusterNetworks: '10.0.0.0/8',
  identityTrustDomain: 'trust.example',
  'identity.namespace': 'other',
  'identity.issuer.scheme': 'kubernetes.io/tls',
  'identity.issuer.clockSkewAllowance': '1m30s',
  'identity.issuer.issuanceLifetime': '48h',
  'proxy.defaultInboundPolicy': 'deny',
  'proxy.opaquePorts': '25,4000-4100',
  'proxyInit.ignoreInboundPorts': '22',
  'proxyInit.ignoreOutboundPorts': '23-24',
  webhookFailurePolicy: 'Fail',
  controllerImage: 'some/other',
  controllerLogLevel: 'debug',
  controllerUID: 1_234_567_890,
  controllerGID: 3000,
  imagePullPolicy: 'Always',
  imagePullSecrets: [{ name: 'yes' }],
  deploymentStrategy: { type: 'Recreate', rollingUpdate: null },
  nodeSelector: { disk: 'on', 'kubernetes.io/os': null },
  nodeAffinity: {
    requiredDuringSchedulingIgnoredDuringExecution: {
      nodeSelectorTerms: [{ matchExpressions: [{ key: 'a', operator: 'In', values: ['0x1', 'no'] }] }],
    },
  },
  tolerations: [{ key: 'a', operator: 'Equal', value: '{{ .Values }}', effect: 'NoExecute' }],
  podAnnotations: { note: 'a: "b" # <c> {{ d }}', 'linkerd.io/inject': 'enabled' },
  podLabels: { team: 'y' },
  commonLabels: { owner: '1e3', 'app.kubernetes.io/name': 'never' },
  prometheusUrl: 'http://prometheus.example:9090',
  'nodemesh.version': '1.2.3-rc.1',
  'nodemesh.registry': 'registry.example.com:5000/mirror',
  'nodemesh.startupTaint': 'example.com/starting',
  priorityClassName: 'system-cluster-critical',
  runtimeClassName: 'runc',
};

/** The same for the nodes' chart. */
const flippedOfNodes: Readonly<Record<string, unknown>> = {
  clusterDomain: 'example.internal',
  identityTrustDomain: 'trust.example',
  'identity.namespace': 'other',
  destCNINetDir: '/var/lib/cni/net.d',
  destCNIBinDir: '/home/kubernetes/bin',
  logLevel: 'debug',
  'image.pullPolicy': 'Always',
  imagePullSecrets: [{ name: 'yes' }],
  priorityClassName: '',
  tolerations: [{ key: 'a', operator: 'Equal', value: '{{ .Values }}', effect: 'NoExecute' }],
  'resources.cpu.request': '',
  podLabels: { team: 'y' },
  commonLabels: { owner: '1e3', 'app.kubernetes.io/name': 'never' },
  'nodemesh.version': '1.2.3-rc.1',
  'nodemesh.registry': 'registry.example.com:5000/mirror',
  'nodemesh.agentImage': 'some/other',
  'nodemesh.keeperImage': 'some/third',
  'nodemesh.nodeSelector': { disk: 'on', 'kubernetes.io/os': null },
  'nodemesh.sameNode': 'mtls',
  'nodemesh.excludeNamespaces': 'a,b',
  'nodemesh.linkerd.destinationAddress': 'linkerd-dst.linkerd.svc.cluster.local:8086',
  'nodemesh.linkerd.destinationIdentity': 'destination.example',
  'nodemesh.linkerd.policyAddress': '[fd00::8]:8090',
  'nodemesh.linkerd.policyIdentity': 'policy.example',
};

function otherThan(
  path: string,
  field: Field | undefined = fields.get(path),
  flips: Readonly<Record<string, unknown>> = flipped,
): unknown {
  if (path in flips) return flips[path];
  if (field?.type.kind === 'flag') return field.default !== true;
  if (field?.type.kind === 'integer') return Number(field.default) + 4;
  if (/[rR]esources\./.test(path)) return path.includes('cpu') ? '150m' : '96Mi';
  throw new Error(`give a second value for ${path}`);
}

describe('the charts', () => {
  let helm: string;
  let folder: string;
  let credentials: ValuesMap;

  before(async () => {
    helm = await goTool('helm');
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-helm-'));
    const authority = await makeTestAuthority();
    credentials = {
      identityTrustAnchorsPEM: authority.anchorPem,
      identity: { issuer: { tls: { crtPEM: authority.issuerPem, keyPEM: authority.issuerKeyPem } } },
    };
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  const template = (values: ValuesMap, ...more: readonly string[]) =>
    templateOf('nodemesh-control-plane', values, ...more);

  async function templateOf(
    name: string,
    values: ValuesMap,
    ...more: readonly string[]
  ): Promise<Rendered[]> {
    const file = join(folder, 'values.yaml');
    writeFileSync(file, JSON.stringify(values));
    const chart = join(root, 'charts', name);
    const args = [
      'template',
      'mesh',
      chart,
      '-n',
      NAMESPACE,
      '--kube-version',
      '1.34.0',
      ...more,
      '-f',
      file,
    ];
    const { stdout } = await run(helm, args, { maxBuffer: 64 * 1024 * 1024 });
    return parseAllDocuments(stdout)
      .map((document) => document.toJS() as Rendered | null)
      .filter((object) => object !== null);
  }

  const onNodes = (values: ValuesMap): Rendered[] =>
    cniObjects({
      values: checkValues(values, cniValues).values,
      namespace: NAMESPACE,
      version: ownVersion(),
    }) as unknown as Rendered[];

  async function compareNodes(values: ValuesMap): Promise<Record<string, unknown>> {
    const own = byName(onNodes(values));
    assert.deepEqual(byName(await templateOf('nodemesh-cni', values)), own);
    // It holds all values.
    return { ...own, 'ConfigMap/linkerd-cni-config': undefined };
  }

  const ours = (values: ValuesMap): Rendered[] =>
    controlPlaneObjects({
      values: checkValues(values).values,
      namespace: NAMESPACE,
      version: ownVersion(),
    }) as unknown as Rendered[];

  /** Objects by kind and name, without what shall differ: who made them. */
  function byName(objects: readonly Rendered[]): Record<string, unknown> {
    const found: Record<string, unknown> = {};
    for (const object of objects) {
      const { kind, metadata } = object;
      // The CLI's own.
      if (kind === 'Namespace' || metadata.name === 'linkerd-config-overrides') continue;
      const text = JSON.stringify(object).replaceAll(/nodemesh\/(cli|helm) /g, 'nodemesh/? ');
      const plain = JSON.parse(text) as Rendered;
      found[`${kind}/${metadata.name}`] =
        plain.data?.['values'] === undefined
          ? plain
          : { ...plain, data: { ...plain.data, values: parse(plain.data['values']) as unknown } };
    }
    return found;
  }

  async function compare(values: ValuesMap, ...more: readonly string[]): Promise<Record<string, unknown>> {
    const all = mergeValues(credentials, values);
    const own = byName(ours(all));
    assert.deepEqual(byName(await template(mergeValues(credentials, values), ...more)), own);
    return own;
  }

  it('render what mesh install prints, with the defaults', async () => {
    const objects = Object.keys(await compare({}));
    for (const name of [
      'ConfigMap/linkerd-config',
      'Secret/linkerd-identity-issuer',
      'Service/linkerd-dst-headless',
      'Deployment/linkerd-identity',
    ])
      assert.ok(objects.includes(name), name);
  });

  it('render what mesh install --ha prints, with values-ha.yaml', async () => {
    const own = byName(ours(mergeValues(credentials, highAvailabilityValues)));
    const file = join(root, 'charts/nodemesh-control-plane/values-ha.yaml');
    assert.deepEqual(byName(await template(credentials, '-f', file)), own);
    assert.ok('PodDisruptionBudget/linkerd-dst' in own);
  });

  it('render no issuer where another program keeps it', async () => {
    const own = await compare({ identity: { issuer: { scheme: 'kubernetes.io/tls' }, externalCA: true } });
    assert.ok(!('Secret/linkerd-identity-issuer' in own));
    assert.ok(!('ConfigMap/linkerd-identity-trust-roots' in own));
  });

  const given = /^(identityTrustAnchorsPEM|identity\.issuer\.tls\..*)$/;
  for (const path of fields.keys()) {
    if (given.test(path)) continue;
    it(`take ${path} as mesh install does`, async () => {
      const changed = await compare(valuesOf(path, otherThan(path)));
      assert.notDeepEqual(changed, byName(ours(credentials)), `${path} changes nothing`);
    });
  }

  it('render what mesh install-cni prints, with the defaults', async () => {
    const objects = Object.keys(await compareNodes({}));
    for (const name of [
      'ConfigMap/linkerd-cni-config',
      'DaemonSet/nodemesh-agent',
      'DaemonSet/nodemesh-keeper',
    ])
      assert.ok(objects.includes(name), name);
  });

  for (const [path, field] of cniValues.fields) {
    it(`take ${path} as mesh install-cni does`, async () => {
      const changed = await compareNodes(valuesOf(path, otherThan(path, field, flippedOfNodes)));
      const unchanged = { ...byName(onNodes({})), 'ConfigMap/linkerd-cni-config': undefined };
      assert.notDeepEqual(changed, unchanged, `${path} changes nothing`);
    });
  }

  it('render the CRDs that mesh install --crds prints', async () => {
    const labels = { commonLabels: { owner: 'me' } };
    for (const values of [{}, labels]) {
      const own = renderObjects(definitionGroups, {
        values: checkValues(values).values,
        namespace: NAMESPACE,
        creator: `nodemesh/cli ${ownVersion()}`,
      }) as unknown as Rendered[];
      assert.equal(own.length, definitions.length);
      assert.deepEqual(byName(await templateOf('nodemesh-crds', values)), byName(own));
    }
  });

  it('refuse what mesh install refuses, and name the value', async () => {
    const wrong: readonly [string, unknown][] = [
      ['controllerReplica', 3],
      ['controllerReplicas', '3'],
      ['nodemesh.registri', 'x'],
      ['clusterDomain', 'Has Spaces'],
      ['proxy.defaultInboundPolicy', 'open'],
    ];
    for (const [path, value] of wrong) {
      const values = mergeValues(credentials, valuesOf(path, value));
      const name = path.split('.').at(-1) ?? '';
      await assert.rejects(template(values), new RegExp(name), path);
      assert.throws(() => checkValues(values), new RegExp(name), path);
    }
    const nodes = valuesOf('destCNINetDir', 'relative');
    await assert.rejects(templateOf('nodemesh-cni', nodes), /destCNINetDir/);
    assert.throws(() => checkValues(nodes, cniValues), /destCNINetDir/);
  });

  it('refuse to render without an issuer, and say what to give', async () => {
    await assert.rejects(template({}), /identity\.issuer\.tls\.crtPEM: give the issuer in PEM/);
    const noAnchors = mergeValues(credentials, { identityTrustAnchorsPEM: '' });
    await assert.rejects(template(noAnchors), /identityTrustAnchorsPEM: give the trust anchors/);
  });

  it('pass helm lint', async () => {
    const file = join(folder, 'lint.yaml');
    writeFileSync(file, JSON.stringify(credentials));
    const chart = join(root, 'charts/nodemesh-control-plane');
    await run(helm, ['lint', '--strict', '--kube-version', '1.34.0', chart, '-f', file]);
    for (const name of ['nodemesh-crds', 'nodemesh-cni'])
      await run(helm, ['lint', '--strict', '--kube-version', '1.34.0', join(root, 'charts', name)]);
  });
});
