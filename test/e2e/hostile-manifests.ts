// SPDX-License-Identifier: Apache-2.0
// Manifests that cannot be applied, each with what its author must be told. Every one of them comes after a namespace
// that is as it should be, and that must not be there afterwards.

export interface BrokenManifest {
  readonly name: string;
  readonly text: string;
  /** In what the command prints: the document (and the object where it has a name), the field, the mistake. */
  readonly says: RegExp;
}

const pod = (spec: string, name = 'broken'): string => `
apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  containers:
    - name: main
      command: [sleep, infinity]
${spec}`;
const deployment = (spec: string): string => `
apiVersion: apps/v1
kind: Deployment
metadata: { name: broken }
spec:
  selector: { matchLabels: { app: broken } }
  template:
    metadata: { labels: { app: broken } }
    spec: { containers: [{ name: main, command: [sleep, infinity] }] }
${spec}`;
const service = (spec: string): string => `
apiVersion: v1
kind: Service
metadata: { name: broken }
spec: ${spec}`;

export const brokenManifests: readonly BrokenManifest[] = [
  { name: 'no YAML', text: 'kind: [', says: /document 2: not YAML: .*; correct the syntax/ },
  { name: 'tabs', text: 'kind: Pod\nmetadata:\n\tname: x', says: /document 2: not YAML: .*[Tt]ab/ },
  { name: 'the same key twice', text: 'kind: Pod\nkind: Pod', says: /document 2: not YAML: .*unique/ },
  { name: 'an alias to nothing', text: 'kind: *x', says: /document 2: not YAML: .*alias/i },
  {
    name: 'aliases without end',
    text: `a0: &a0 [x]\n${Array.from({ length: 9 }, (_, n) => `a${n + 1}: &a${n + 1} [${Array(9).fill(`*a${n}`).join()}]`).join('\n')}`,
    says: /document 2: not YAML: .*alias/i,
  },
  {
    name: 'a list',
    text: '- kind: Pod',
    says: /document 2: not an object; expected apiVersion, kind and metadata/,
  },
  { name: 'a text', text: 'hello', says: /document 2: not an object/ },
  { name: 'noise', text: '\u0000\u0001\u0002{{{', says: /document 2: not/ },
  {
    name: 'no kind',
    text: 'apiVersion: v1',
    says: /document 2, kind: missing; a local mesh takes Namespace/,
  },
  {
    name: 'an unknown kind',
    text: 'kind: Gateway',
    says: /document 2, kind: unknown kind "Gateway"; .* takes /,
  },
  { name: 'a kind in small letters', text: 'kind: pod', says: /document 2, kind: unknown kind "pod"/ },
  { name: 'a kind that is a number', text: 'kind: 5', says: /document 2, kind: unknown kind 5/ },
  {
    name: 'a kind of JavaScript',
    text: 'kind: constructor',
    says: /document 2, kind: unknown kind "constructor"/,
  },
  {
    name: 'another apiVersion',
    text: pod('').replace('apiVersion: v1', 'apiVersion: v2'),
    says: /document 2 \(Pod broken\), apiVersion: expected "v1" but found "v2"/,
  },
  {
    name: 'an unknown field at the top',
    text: `${pod('')}\nspeck: 1`,
    says: /document 2 \(Pod broken\), speck: unknown field; remove it or correct its spelling/,
  },
  {
    name: 'an unknown field deep down',
    text: pod('      readinessProbe: { httpGet: { port: 80, paht: / } }'),
    says: /\(Pod broken\), spec\.containers\.0\.readinessProbe\.httpGet\.paht: unknown field/,
  },
  {
    name: 'a field of the prototype',
    text: `${pod('')}\n__proto__: { polluted: true }`,
    says: /\(Pod broken\), __proto__: unknown field/,
  },
  {
    name: 'a number where a text belongs',
    text: pod('').replace(
      '{ name: broken }',
      '{ name: broken, annotations: { config.linkerd.io/opaque-ports: 8080 } }',
    ),
    says: /metadata\.annotations\.config\.linkerd\.io\/opaque-ports: expected text but found 8080; put it in quotes/,
  },
  {
    name: 'a text where a number belongs',
    text: deployment('  replicas: three'),
    says: /\(Deployment broken\), spec\.replicas: expected number but found "three"/,
  },
  {
    name: 'too many replicas',
    text: deployment('  replicas: 1000000'),
    says: /\(Deployment broken\), spec\.replicas: .*1000000/,
  },
  {
    name: 'a text where a list belongs',
    text: pod('').replace('[sleep, infinity]', 'sleep infinity'),
    says: /spec\.containers\.0\.command: expected Array but found "sleep infinity"/,
  },
  {
    name: 'no name',
    text: pod('').replace('{ name: broken }', '{}'),
    says: /document 2 \(Pod without a name\), metadata\.name: missing; add it/,
  },
  { name: 'no metadata', text: 'apiVersion: v1\nkind: ServiceAccount', says: /metadata: missing; add it/ },
  {
    name: 'an impossible name',
    text: pod('', 'Upper_Case'),
    says: /\(Pod Upper_Case\), metadata\.name: expected lower-case letters/,
  },
  {
    name: 'a name that leads out of a folder',
    text: pod('', '../../etc/passwd'),
    says: /metadata\.name: expected lower-case letters/,
  },
  {
    name: 'no container',
    text: 'apiVersion: v1\nkind: Pod\nmetadata: { name: broken }\nspec: { containers: [] }',
    says: /spec\.containers: a pod needs a container/,
  },
  {
    name: 'a container without a command',
    text: pod('').replace('command: [sleep, infinity]', 'image: nginx'),
    says: /spec\.containers\.0\.command: missing; add it/,
  },
  {
    name: 'two containers of one name',
    text: pod('    - { name: main, command: [sleep, infinity] }'),
    says: /\(Pod broken\), spec: the container main is there twice/,
  },
  ...['0', '65536', '1.5', '-1'].map((port) => ({
    name: `port ${port}`,
    text: pod(`      ports: [{ containerPort: ${port} }]`),
    says: new RegExp(`spec\\.containers\\.0\\.ports\\.0\\.containerPort: .*${port}`),
  })),
  {
    name: 'a service with port 0',
    text: service('{ ports: [{ port: 0 }] }'),
    says: /spec\.ports\.0\.port: .*0/,
  },
  {
    name: 'an unknown protocol',
    text: service('{ ports: [{ port: 80, protocol: SCTP }] }'),
    says: /spec\.ports\.0\.protocol: expected \("TCP" \| "UDP"\) but found "SCTP"/,
  },
  {
    name: 'a service of a type that is not served',
    text: service('{ type: NodePort, ports: [{ port: 80 }] }'),
    says: /spec\.type: expected "ClusterIP" but found "NodePort"/,
  },
  {
    name: 'a cluster address that is none',
    text: service('{ clusterIP: banana, ports: [{ port: 80 }] }'),
    says: /document 2: service default\/broken, spec\.clusterIP: "banana" is not usable; choose/,
  },
  {
    name: 'a selector that the template does not fit',
    text: deployment('').replace('labels: { app: broken }', 'labels: { app: other }'),
    says: /\(Deployment broken\), spec: the template must carry the labels of selector\.matchLabels/,
  },
  {
    name: 'a namespace that is not there',
    text: pod('').replace('{ name: broken }', '{ name: broken, namespace: nowhere }'),
    says: /document 2: pod nowhere\/broken: there is no namespace nowhere; add a Namespace/,
  },
  {
    name: 'one object twice',
    text: `${pod('')}\n---\n${pod('')}`,
    says: /document 3: pod default\/broken is there twice, first in \S+, document 2; remove one/,
  },
  {
    name: 'a mount of a volume that is not there',
    text: pod('      volumeMounts: [{ name: data, mountPath: /tmp }]'),
    says: /\(Pod broken\), spec: the volume data is mounted but not there; add it/,
  },
  {
    name: 'two mistakes in two documents',
    text: `kind: Gateway\n---\n${pod('', 'Upper')}`,
    says: /document 2, kind: unknown kind "Gateway"[\s\S]*document 3 \(Pod Upper\), metadata\.name/,
  },
];
