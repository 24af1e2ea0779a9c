// SPDX-License-Identifier: Apache-2.0
// The cluster itself: what every other suite on it takes for granted, without any mesh.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { request } from 'node:https';
import { after, before, describe, test } from 'node:test';
import { parse } from 'yaml';
import { imageTag, TEST_IMAGE } from '../../scripts/images/layout.ts';
import { makeAuthority } from '../kind/certificates.ts';
import type { NodePart } from '../kind/parts.ts';
import { kubernetesVersion } from '../kind/programs.ts';
import { type Cluster, isReady, type KubernetesObject, type Machine, openCluster } from './cluster.ts';
import { withoutMesh } from './installation.ts';
import { application, service } from './objects.ts';
import { forwardPort } from './port-forward.ts';

const NS = 'smoke';

interface Pod extends KubernetesObject {
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly podIP: string;
    readonly containerStatuses: readonly { readonly restartCount: number }[];
  };
}

describe('the cluster', { timeout: 800_000 }, () => {
  let cluster: Cluster;
  /** One pod on each node, each of which answers with its own name. */
  let pods: readonly Pod[];
  let serviceAddress: string;

  before(async () => {
    await withoutMesh();
    cluster = await openCluster();
    await cluster.makeNamespace(NS);
    await cluster.apply([
      application({
        namespace: NS,
        name: 'web',
        replicas: 2,
        port: 80,
        command: [
          'sh',
          '-c',
          'mkdir -p /tmp/w && hostname >/tmp/w/index.html && exec httpd -f -vv -p 80 -h /tmp/w',
        ],
      }),
      service(NS, 'web', 80, { type: 'NodePort' }),
    ]);
    pods = (await cluster.podsReady(NS, 'app=web', 2)) as unknown as readonly Pod[];
    serviceAddress = await cluster.serviceAddress(NS, 'web');
  });
  after(async () => {
    await cluster?.startWatchersAnew();
    await cluster?.close();
  });

  const fetchIn = async (pod: string, url: string): Promise<string> => {
    const result = await cluster.exec({ namespace: NS, pod }, [
      'curl',
      '--silent',
      '--show-error',
      '--max-time',
      '10',
      url,
    ]);
    return result.code === 0 ? result.stdout.trim() : `failed: ${result.stderr}`;
  };
  const onNode = (pod: Pod): Machine<NodePart> =>
    cluster.nodes.find((node) => node.name === pod.spec.nodeName) ?? assert.fail(pod.spec.nodeName);
  const names = (): string[] => pods.map((pod) => pod.metadata.name).sort();
  /** A service's endpoints are taken by chance: every one of them must answer in the end. */
  const answersOf = async (pod: string, url: string): Promise<string[]> => {
    const seen = new Set<string>();
    await cluster.waitFor(`both pods answer ${pod} at ${url}`, async () => {
      seen.add(await fetchIn(pod, url));
      return names().every((name) => seen.has(name));
    });
    return [...seen].sort();
  };

  test('runs the version of its go.mod on nodes of two zones', async () => {
    const nodes = await cluster.list<KubernetesObject & { status: { nodeInfo: { kubeletVersion: string } } }>(
      ['nodes'],
    );
    assert.ok(nodes.length >= 2);
    for (const node of nodes) {
      assert.ok(isReady(node), node.metadata.name);
      assert.equal(node.status.nodeInfo.kubeletVersion, kubernetesVersion());
    }
    const zones = nodes.map((node) => node.metadata.labels?.['topology.kubernetes.io/zone']);
    assert.ok(new Set(zones).size >= 2, String(zones));
  });

  test('spreads a deployment over the nodes, and its pods reach each other', async () => {
    assert.notEqual(pods[0]?.spec.nodeName, pods[1]?.spec.nodeName);
    for (const from of pods)
      for (const to of pods)
        assert.equal(await fetchIn(from.metadata.name, `http://${to.status.podIP}/`), to.metadata.name);
  });

  test('reaches a service by address and by name, also from itself', async () => {
    const expected = names();
    for (const from of expected) {
      assert.deepEqual(await answersOf(from, `http://${serviceAddress}/`), expected);
      assert.deepEqual(await answersOf(from, 'http://web/'), expected);
      assert.ok(expected.includes(await fetchIn(from, `http://web.${NS}.svc.cluster.local/`)));
    }
  });

  test("reaches a service from a node's own network, also at a node port", async () => {
    const { spec } = await cluster.get<KubernetesObject & { spec: { ports: { nodePort: number }[] } }>([
      'service',
      'web',
      `--namespace=${NS}`,
    ]);
    for (const node of cluster.nodes) {
      const nodePort = `http://${node.address}:${spec.ports[0]?.nodePort}/`;
      for (const [from, url] of [
        [node, `http://${serviceAddress}/`],
        [cluster.control, nodePort],
      ] as const) {
        // Each node's kube-proxy learns of the service in its own time.
        const answer = await cluster.waitFor(`${from.name} gets ${url}`, async () => {
          const argv = ['curl', '--silent', '--show-error', '--max-time', '10', url];
          const { code, stdout } = await from.run(argv);
          return code === 0 && stdout.trim();
        });
        assert.ok(names().includes(answer), answer);
      }
    }
  });

  test('runs commands in pods, shows their logs and forwards ports', async () => {
    const [name = ''] = names();
    const failed = await cluster.exec({ namespace: NS, pod: name }, ['sh', '-c', 'cat; exit 7'], {
      input: 'in',
    });
    assert.deepEqual([failed.code, failed.stdout], [7, 'in']);
    await fetchIn(name, 'http://127.0.0.1/only-in-the-log');
    await cluster.waitFor('the request is in the log', async () =>
      (await cluster.logs({ namespace: NS, pod: name })).includes('only-in-the-log'),
    );
    const forward = await forwardPort(cluster, { namespace: NS, pod: name }, 80);
    try {
      const answer = await cluster.control.output(['curl', '--silent', `http://127.0.0.1:${forward.port}/`]);
      assert.equal(answer.trim(), name);
    } finally {
      await forward.close();
    }
  });

  test('binds a token to its pod, account, audience and node, and a pod reaches the API server with its own', async () => {
    const audience = 'identity.l5d.io';
    const token = { audience, expirationSeconds: 600, path: 'token' };
    await cluster.apply([
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { namespace: NS, name: 'bound' } },
      application({
        namespace: NS,
        name: 'bound',
        serviceAccount: 'bound',
        command: ['sleep', '1000000'],
        pod: { volumes: [{ name: 'token', projected: { sources: [{ serviceAccountToken: token }] } }] },
        container: { volumeMounts: [{ name: 'token', mountPath: '/token' }] },
      }),
    ]);
    const [pod] = (await cluster.podsReady(NS, 'app=bound', 1)) as unknown as readonly Pod[];
    assert.ok(pod !== undefined);
    const place = { namespace: NS, pod: pod.metadata.name };
    const { stdout } = await cluster.exec(place, ['cat', '/token/token']);

    interface Review {
      readonly status: {
        readonly authenticated?: boolean;
        readonly audiences?: readonly string[];
        readonly user?: {
          readonly username: string;
          readonly extra: Readonly<Record<string, readonly string[]>>;
        };
      };
    }
    const review = async (audiences: readonly string[]): Promise<Review['status']> => {
      const object = {
        apiVersion: 'authentication.k8s.io/v1',
        kind: 'TokenReview',
        metadata: {},
        spec: { token: stdout, audiences },
      };
      const input = JSON.stringify(object);
      return (
        JSON.parse(await cluster.kubectl(['create', '--output=json', '--filename=-'], { input })) as Review
      ).status;
    };
    const good = await review([audience]);
    assert.equal(good.authenticated, true);
    assert.deepEqual(good.audiences, [audience]);
    assert.equal(good.user?.username, `system:serviceaccount:${NS}:bound`);
    const extra = good.user?.extra ?? {};
    assert.deepEqual(extra['authentication.kubernetes.io/pod-name'], [pod.metadata.name]);
    assert.deepEqual(extra['authentication.kubernetes.io/pod-uid'], [pod.metadata.uid]);
    assert.deepEqual(extra['authentication.kubernetes.io/node-name'], [pod.spec.nodeName]);
    assert.notEqual((await review(['somebody-else'])).authenticated, true);

    const asPod = 'd=/var/run/secrets/kubernetes.io/serviceaccount; curl --silent --cacert $d/ca.crt';
    const call = `${asPod} --header "Authorization: Bearer $(cat $d/token)" https://kubernetes.default.svc/api`;
    const answer = await cluster.exec(place, ['sh', '-c', call]);
    assert.match(answer.stdout, /"kind": "APIVersions"/);
  });

  test('asks a webhook that runs in a pod', async () => {
    const authority = await makeAuthority('webhook', Date.now());
    const keys = await authority.issue({ commonName: 'hook', dns: [`hook.${NS}.svc`] });
    await cluster.apply([
      {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { namespace: NS, name: 'hook' },
        stringData: { 'tls.crt': keys.certificatePem, 'tls.key': keys.keyPem },
      },
      {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { namespace: NS, name: 'hook' },
        data: { 'hook.mjs': HOOK },
      },
      application({
        namespace: NS,
        name: 'hook',
        port: 8443,
        command: ['node', '/program/hook.mjs'],
        pod: {
          volumes: [
            { name: 'keys', secret: { secretName: 'hook' } },
            { name: 'program', configMap: { name: 'hook' } },
          ],
        },
        container: {
          volumeMounts: [
            { name: 'keys', mountPath: '/keys' },
            { name: 'program', mountPath: '/program' },
          ],
        },
      }),
      service(NS, 'hook', 8443, { ports: [{ port: 443, targetPort: 8443 }] }),
    ]);
    await cluster.podsReady(NS, 'app=hook', 1);
    const configuration = {
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'ValidatingWebhookConfiguration',
      metadata: { name: `${NS}-hook` },
      webhooks: [
        {
          name: 'hook.nodemesh.io',
          admissionReviewVersions: ['v1'],
          sideEffects: 'None',
          failurePolicy: 'Fail',
          timeoutSeconds: 30,
          clientConfig: {
            service: { namespace: NS, name: 'hook', port: 443 },
            caBundle: Buffer.from(authority.certificatePem).toString('base64'),
          },
          namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': NS } },
          objectSelector: { matchLabels: { asked: 'yes' } },
          rules: [
            { apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['configmaps'] },
          ],
        },
      ],
    };
    await cluster.apply([configuration]);
    try {
      const create = (name: string, wanted: string) =>
        cluster.tryKubectl(['create', '--filename=-'], {
          input: JSON.stringify({
            apiVersion: 'v1',
            kind: 'ConfigMap',
            metadata: { namespace: NS, name, labels: { asked: 'yes', wanted } },
          }),
        });
      // The API server learns of the configuration a moment later; until then nobody is asked.
      let attempt = 0;
      const refused = await cluster.waitFor('the webhook refuses', async () => {
        const result = await create(`refused-${attempt++}`, 'no');
        return result.code !== 0 && result.stderr.includes('denied the request') ? result.stderr : undefined;
      });
      assert.match(refused, /not wanted here/);
      const allowed = await create('allowed', 'yes');
      assert.equal(allowed.code, 0, allowed.stderr);
    } finally {
      await cluster.kubectl(['delete', 'validatingwebhookconfiguration', `${NS}-hook`]);
    }
  });

  test('keeps pods running while the kubelet and containerd are killed and started again', async () => {
    const [pod] = pods;
    assert.ok(pod !== undefined);
    const node = onNode(pod);
    for (const part of ['kubelet', 'containerd'] as const) {
      await node.kill(part);
      assert.equal(await node.runs(part), false);
      await node.start(part);
    }
    // Exec goes through both.
    await cluster.waitFor(
      'the node answers again',
      async () => (await fetchIn(pod.metadata.name, 'http://127.0.0.1/')) === pod.metadata.name,
    );
    const now = await cluster.get<Pod>(['pod', pod.metadata.name, `--namespace=${NS}`]);
    assert.deepEqual(
      now.status.containerStatuses.map((one) => one.restartCount),
      [0],
    );
  });

  test('has the same objects after the API server and etcd were killed and started again', async () => {
    const [pod] = pods;
    assert.ok(pod !== undefined);
    const { name } = pod.metadata;
    const node = onNode(pod);
    const curl = ['curl', '--silent', '--max-time', '10', `http://${pod.status.podIP}/`];
    for (const part of ['kube-apiserver', 'etcd'] as const) {
      await cluster.control.kill(part);
      const away = await cluster.tryKubectl(['get', 'namespace', NS, '--request-timeout=2s']);
      assert.notEqual(away.code, 0);
      // What runs goes on.
      assert.equal((await node.output(curl)).trim(), name);
      await cluster.control.start(part);
    }
    await cluster.waitFor('the API server answers', async () => {
      const { code, stdout } = await cluster.tryKubectl([
        'get',
        'pod',
        pod.metadata.name,
        `--namespace=${NS}`,
        '-o=jsonpath={.metadata.uid}',
      ]);
      return code === 0 && stdout === pod.metadata.uid;
    });
    for (const part of ['kube-controller-manager', 'kube-scheduler'] as const)
      assert.ok(await cluster.control.runs(part), part);
    for (const part of ['kubelet', 'containerd', 'kube-proxy'] as const)
      for (const node of cluster.nodes) assert.ok(await node.runs(part), `${part} of ${node.name}`);
  });

  test('shows a privileged pod only its node, not the machine', async () => {
    await cluster.apply([
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { namespace: NS, name: 'privileged' },
        spec: {
          hostPID: true,
          hostNetwork: true,
          nodeName: cluster.nodes[0]?.name,
          terminationGracePeriodSeconds: 0,
          volumes: [{ name: 'root', hostPath: { path: '/' } }],
          containers: [
            {
              name: 'root',
              image: TEST_IMAGE,
              imagePullPolicy: 'Never',
              securityContext: { privileged: true },
              volumeMounts: [{ name: 'root', mountPath: '/host', mountPropagation: 'HostToContainer' }],
            },
          ],
        },
      },
    ]);
    // The API server was away: a kubelet looks for new pods again after up to a minute.
    await cluster.waitFor('the pod runs', async () =>
      isReady(await cluster.get<Pod>(['pod', 'privileged', `--namespace=${NS}`])),
    );
    const look = async (command: string): Promise<string[]> => {
      const result = await cluster.exec({ namespace: NS, pod: 'privileged' }, ['sh', '-c', command]);
      assert.equal(result.code, 0, result.stderr);
      return result.stdout.trim().split('\n');
    };
    assert.deepEqual(await look('ls /host/home /host/var/lib/nodemesh-kc 2>/dev/null || true'), ['']);
    assert.deepEqual(await look('cat /proc/1/comm'), ['pause']);
    assert.ok((await look('ls /host/etc/cni/net.d')).includes('10-bridge.conflist'));
    const disks = readdirSync('/sys/block');
    assert.deepEqual(
      (await look('ls /host/dev')).filter((name) => disks.some((disk) => name.startsWith(disk))),
      [],
    );
  });

  test('has the images of the mesh, whose programs start without root and without a place to write', async () => {
    const job = (name: string, image: string, command: readonly string[], security: object): object => ({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { namespace: NS, name },
      spec: {
        restartPolicy: 'Never',
        containers: [
          {
            name,
            image,
            imagePullPolicy: 'Never',
            command,
            securityContext: {
              readOnlyRootFilesystem: true,
              allowPrivilegeEscalation: false,
              capabilities: { drop: ['ALL'] },
              ...security,
            },
          },
        ],
      },
    });
    // Not one of them can do its work without settings: each says what is missing, which takes all of its modules.
    const noRoot = { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } };
    const cached = 'console.log(process.getuid(), (await import("node:module")).enableCompileCache().status)';
    await cluster.apply([
      job('identity', imageTag('controller'), ['node', 'identity/main.ts'], noRoot),
      job('destination', imageTag('controller'), ['node', 'destination/main.ts'], noRoot),
      job('agent', imageTag('agent'), ['node', 'agent/main.ts'], {}),
      job('install', imageTag('agent'), ['node', 'daemonset/install.ts', '--help'], {}),
      job('keeper', imageTag('keeper'), ['/keeper', '--help'], {}),
      job('cached', imageTag('controller'), ['node', '--input-type=module', '--eval', cached], noRoot),
    ]);
    const outputs = new Map<string, string>();
    for (const pod of ['identity', 'destination', 'agent', 'install', 'keeper', 'cached']) {
      await cluster.waitFor(`${pod} has ended`, async () => {
        const { status } = await cluster.get<KubernetesObject & { status: { phase: string } }>([
          'pod',
          pod,
          `--namespace=${NS}`,
        ]);
        return status.phase === 'Succeeded' || status.phase === 'Failed';
      });
      outputs.set(pod, await cluster.logs({ namespace: NS, pod }));
    }
    assert.match(outputs.get('identity') ?? '', /identity: .*NODEMESH_|identity: .*LINKERD/s);
    assert.match(outputs.get('destination') ?? '', /destination: /);
    assert.match(outputs.get('agent') ?? '', /NODEMESH_NODE/);
    assert.match(outputs.get('keeper') ?? '', /socket/);
    assert.match(outputs.get('cached') ?? '', /^2103 /);
  });

  test('can be reached from outside its namespaces by a kubeconfig', async () => {
    interface Config {
      readonly clusters: readonly { cluster: { server: string; 'certificate-authority-data': string } }[];
      readonly users: readonly { user: { 'client-certificate-data': string; 'client-key-data': string } }[];
    }
    const config = parse(readFileSync(cluster.kubeconfig, 'utf8')) as Config;
    const { server, 'certificate-authority-data': ca } = config.clusters[0]?.cluster ?? assert.fail();
    const user = config.users[0]?.user ?? assert.fail();
    const decode = (text: string): Buffer => Buffer.from(text, 'base64');
    const body = await new Promise<string>((resolve, reject) => {
      const outgoing = request(
        `${server}/version`,
        {
          ca: decode(ca),
          cert: decode(user['client-certificate-data']),
          key: decode(user['client-key-data']),
        },
        (response) => {
          let text = '';
          response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
          response.on('end', () => resolve(text));
        },
      );
      outgoing.on('error', reject);
      outgoing.end();
    });
    assert.equal((JSON.parse(body) as { gitVersion: string }).gitVersion, kubernetesVersion());
  });
});

const HOOK = `
import { createServer } from 'node:https';
import { readFileSync } from 'node:fs';
createServer({ cert: readFileSync('/keys/tls.crt'), key: readFileSync('/keys/tls.key') }, async (request, response) => {
  let text = '';
  for await (const chunk of request) text += chunk;
  const { uid, object } = JSON.parse(text).request;
  const allowed = object.metadata.labels.wanted === 'yes';
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({
    apiVersion: 'admission.k8s.io/v1',
    kind: 'AdmissionReview',
    response: { uid, allowed, status: { message: 'not wanted here' } },
  }));
}).listen(8443);
`;
