// SPDX-License-Identifier: Apache-2.0
// The kinds of workloads that people run, each small: what serves says who it is, whom it sees and which identity the
// mesh vouches for; what only calls writes into its log what `deployment` said to it.

import { TEST_IMAGE } from '../../scripts/images/layout.ts';

export const NS = 'workloads';
export const PLAIN_NS = 'workloads-plain';
export const PORT = 8080;
export const HOST_PORT = 18_080;
export const HOST_NETWORK_PORT = 18_081;
export const NODE_PORTS = { Local: 30_081, Cluster: 30_082 } as const;
/** Makes the application of a pod close its ports, and live on. */
export const DIE = ['sh', '-c', 'touch /tmp/dead; while [ -e /tmp/dead ]; do sleep 0.1; done'];

/** node say.mjs PORT[@ADDRESS]… ; g before a port: gRPC's health service. */
const SAY = `
import { existsSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createHttp2 } from 'node:http2';
import { hostname } from 'node:os';
const HEALTHY = Buffer.from([0, 0, 0, 0, 2, 8, 1]);
const said = ({ socket, headers }) =>
  hostname() + ' ' + socket.remoteAddress.replace('::ffff:', '') + ' ' + (headers['l5d-client-id'] ?? '-') + '\\n';
const servers = process.argv.slice(2).map((argument) => {
  const [port, address = '::'] = argument.replace('g', '').split('@');
  const server = argument.startsWith('g') ? createHttp2() : createServer((request, response) => response.end(said(request)));
  server.on('stream', (stream) => {
    stream.on('error', () => undefined);
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(HEALTHY);
  });
  const sockets = new Set();
  server.on('connection', (socket) => sockets.add(socket.on('close', () => sockets.delete(socket))));
  server.listen(Number(port), address);
  return { server, sockets };
});
setInterval(() => {
  if (!existsSync('/tmp/dead')) return;
  rmSync('/tmp/dead');
  for (const { server, sockets } of servers) {
    server.close();
    for (const socket of sockets) socket.destroy();
  }
}, 100);
`;

const program = (namespace: string): object => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name: 'say', namespace },
  data: { 'say.mjs': SAY },
});

type Fields = Readonly<Record<string, unknown>>;

const container = (name: string, command: readonly string[], more: Fields = {}): object => ({
  name,
  image: TEST_IMAGE,
  imagePullPolicy: 'Never',
  command,
  volumeMounts: [{ name: 'say', mountPath: '/say' }],
  ...more,
});
const ready = (port: number): Fields => ({ readinessProbe: { tcpSocket: { port }, periodSeconds: 1 } });
const says = (...ports: readonly (string | number)[]): string[] => [
  'node',
  '/say/say.mjs',
  ...ports.map(String),
];
const ASK = `curl -sS --max-time 20 http://deployment.${NS}:${PORT}/`;
const SLEEP = ['sleep', 'infinity'];

interface PodParts extends Fields {
  readonly containers: readonly object[];
}
const podSpec = (name: string, parts: PodParts): object => ({
  metadata: { labels: { app: name } },
  spec: {
    terminationGracePeriodSeconds: 1,
    ...parts,
    volumes: [{ name: 'say', configMap: { name: 'say' } }],
  },
});
const pod = (name: string, parts: PodParts, namespace = NS): object => {
  const { metadata, spec } = podSpec(name, parts) as { metadata: object; spec: object };
  return { apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace, ...metadata }, spec };
};
const onNode = (node: string): Fields => ({ nodeSelector: { 'kubernetes.io/hostname': node } });
const service = (name: string, spec: Fields = {}, port: Fields = {}): object => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name, namespace: NS },
  spec: { selector: { app: name }, ports: [{ name: 'http', port: PORT, ...port }], ...spec },
});
const controlled = (apiVersion: string, kind: string, name: string, spec: Fields): object => ({
  apiVersion,
  kind,
  metadata: { name, namespace: NS },
  spec,
});
const calls = (name: string): PodParts => ({
  restartPolicy: 'Never',
  containers: [container(name, ['sh', '-c', ASK])],
});

/** By name of the probe; each pod's application can die. */
const probes = {
  http: { httpGet: { port: PORT, path: '/' } },
  tcp: { tcpSocket: { port: PORT } },
  grpc: { grpc: { port: PORT + 1 } },
  exec: { exec: { command: ['curl', '-sf', '--max-time', '2', `http://127.0.0.1:${PORT}/`] } },
} as const;
export const probeNames = Object.keys(probes) as readonly (keyof typeof probes)[];

/** `near` and `far` are two nodes; clients are on the first, servers on the other. */
export function servers(near: string, far: string): object[] {
  const server = (name: string, more: Fields = {}, parts: Fields = {}): object =>
    pod(name, {
      ...onNode(far),
      ...parts,
      containers: [container(name, says(PORT), { ...ready(PORT), ...more })],
    });
  return [
    program(NS),
    program(PLAIN_NS),
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'caller', namespace: NS } },
    pod('caller', { ...onNode(near), serviceAccountName: 'caller', containers: [container('main', SLEEP)] }),
    pod('outsider', { ...onNode(near), containers: [container('main', SLEEP)] }, PLAIN_NS),

    controlled('apps/v1', 'Deployment', 'deployment', {
      selector: { matchLabels: { app: 'deployment' } },
      template: podSpec('deployment', {
        ...onNode(far),
        containers: [container('main', says(PORT), ready(PORT))],
      }),
    }),
    service('deployment'),
    controlled('apps/v1', 'StatefulSet', 'stateful', {
      serviceName: 'stateful',
      replicas: 2,
      podManagementPolicy: 'Parallel',
      selector: { matchLabels: { app: 'stateful' } },
      template: podSpec('stateful', {
        ...onNode(far),
        containers: [container('main', says(PORT), ready(PORT))],
      }),
    }),
    service('stateful', { clusterIP: 'None' }),

    pod('two', {
      ...onNode(far),
      containers: [
        container('one', says(PORT), ready(PORT)),
        container('other', says(PORT + 1), ready(PORT + 1)),
      ],
    }),
    pod('loopback', {
      ...onNode(far),
      containers: [
        container('main', says(`${PORT}@127.0.0.1`), {
          readinessProbe: { ...probes.exec, periodSeconds: 1, timeoutSeconds: 3 },
        }),
      ],
    }),

    server('host-port', { ports: [{ containerPort: PORT, hostPort: HOST_PORT }] }),
    server('node-port'),
    ...(['Local', 'Cluster'] as const).map((policy) =>
      service(
        `node-port-${policy.toLowerCase()}`,
        { type: 'NodePort', selector: { app: 'node-port' }, externalTrafficPolicy: policy },
        { nodePort: NODE_PORTS[policy] },
      ),
    ),
    pod('host-network', {
      ...onNode(far),
      hostNetwork: true,
      dnsPolicy: 'ClusterFirstWithHostNet',
      containers: [
        container('main', says(HOST_NETWORK_PORT), {
          ports: [{ containerPort: HOST_NETWORK_PORT }],
          ...ready(HOST_NETWORK_PORT),
        }),
      ],
    }),
    server('net-admin', { securityContext: { capabilities: { add: ['NET_ADMIN'] } } }),
    server('restricted', {
      securityContext: {
        runAsUser: 1000,
        runAsNonRoot: true,
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
        seccompProfile: { type: 'RuntimeDefault' },
      },
    }),
    pod('with-proxy', {
      ...onNode(far),
      containers: [container('main', says(PORT), ready(PORT)), container('linkerd-proxy', SLEEP)],
    }),
    ...probeNames.map((name) =>
      pod(`probed-${name}`, {
        containers: [
          container('main', says(PORT, `g${PORT + 1}`), {
            readinessProbe: { ...probes[name], periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 3 },
          }),
        ],
      }),
    ),
  ];
}

/** What calls as soon as it starts: `deployment` must be ready. */
export const callers = (far: string): object[] => [
  controlled('batch/v1', 'Job', 'job', { backoffLimit: 0, template: podSpec('job', calls('main')) }),
  controlled('batch/v1', 'CronJob', 'cron', {
    // Its time does not come; the test starts it.
    schedule: '0 0 29 2 *',
    jobTemplate: { spec: { backoffLimit: 0, template: podSpec('cron', calls('main')) } },
  }),
  pod('brief', calls('main')),
  pod('init', {
    initContainers: [container('first', ['sh', '-c', ASK])],
    containers: [container('main', SLEEP)],
  }),
  pod('sidecar', {
    ...onNode(far),
    initContainers: [container('beside', says(PORT), { restartPolicy: 'Always', ...ready(PORT) })],
    containers: [container('main', ['sh', '-c', `${ASK}; exec sleep infinity`])],
  }),
];
