// SPDX-License-Identifier: Apache-2.0
// What runs on the nodes fits the programs that run there, the control plane, and the images.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { tokenAudiences } from '#lib/registry/token-review.ts';
import { identityOf } from '#lib/x509/names.ts';
import { agentSettings, loadAgentConfig } from '../../agent/config.ts';
import { destinationSettings } from '../../destination/config.ts';
import { identitySettings } from '../../identity/config.ts';
import { imageLayouts } from '../../scripts/images/layout.ts';
import { cniObjects } from '../../install/cni.ts';
import { cniValues } from '../../install/cni-values-table.ts';
import { controlPlaneObjects } from '../../install/manifest.ts';
import { capabilityRights, nodeFolders } from '../../install/objects/node-rights.ts';
import { removal } from '../../install/objects/removal.ts';
import { renderObjects } from '../../install/render-objects.ts';
import { checkValues, type ValuesMap } from '../../install/values.ts';

interface Container {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly env?: readonly {
    readonly name: string;
    readonly value?: string;
    readonly valueFrom?: { readonly fieldRef: { readonly fieldPath: string } };
  }[];
  readonly ports?: unknown;
  readonly volumeMounts: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly readOnly?: boolean;
    readonly mountPropagation?: string;
  }[];
  readonly securityContext: {
    readonly privileged?: boolean;
    readonly readOnlyRootFilesystem: boolean;
    readonly capabilities: { readonly drop: readonly string[]; readonly add?: readonly string[] };
  };
  readonly [key: string]: unknown;
}

interface PodSpec {
  readonly containers: readonly Container[];
  readonly initContainers?: readonly Container[];
  readonly volumes: readonly {
    readonly name: string;
    readonly hostPath?: { readonly path: string };
    readonly projected?: {
      readonly sources: readonly { readonly serviceAccountToken: { readonly audience: string } }[];
    };
  }[];
  readonly [key: string]: unknown;
}

interface DaemonSet {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly spec: {
    readonly updateStrategy: Readonly<Record<string, unknown>>;
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
    readonly template: {
      readonly metadata: { readonly labels: Readonly<Record<string, string>> };
      readonly spec: PodSpec;
    };
  };
}

const namespace = 'mesh-ns';
const version = '1.2.3';
const objectsWith = (values: ValuesMap = {}) =>
  cniObjects({ values: checkValues(values, cniValues).values, namespace, version });
const daemonSet = (name: string, values?: ValuesMap): DaemonSet => {
  const found = objectsWith(values).find((one) => one.kind === 'DaemonSet' && one.metadata.name === name);
  assert.ok(found, name);
  return found as unknown as DaemonSet;
};
const podOf = (name: string, values?: ValuesMap): PodSpec => daemonSet(name, values).spec.template.spec;
const containerOf = (name: string, container: string, values?: ValuesMap): Container => {
  const found = podOf(name, values).containers.find((one) => one.name === container);
  assert.ok(found, container);
  return found;
};

/** What the kubelet makes of it on a node. */
function environment(
  { env }: Container,
  services: Readonly<Record<string, string>> = {},
): Record<string, string> {
  const downward: Readonly<Record<string, string>> = {
    'spec.nodeName': 'worker-1',
    'status.hostIPs': '10.0.0.5,fd00::5',
    'metadata.uid': '0b0e7a2c-7a52-4d3f-9a55-0e0f6f0c9d11',
  };
  return Object.fromEntries(
    (env ?? []).map(({ name, value, valueFrom }) => {
      const path = valueFrom?.fieldRef.fieldPath;
      const text = path === undefined ? value : downward[path];
      assert.ok(text !== undefined, `${name}: ${path}`);
      return [name, text.replaceAll(/\$\((\w+)\)/g, (whole, key: string) => services[key] ?? whole)];
    }),
  );
}

const both = ['nodemesh-agent', 'nodemesh-keeper'];

describe('what runs on the nodes', () => {
  it('is a ConfigMap, two accounts without rights and two DaemonSets', () => {
    assert.deepEqual(
      objectsWith().map(({ kind, metadata }) => `${kind}/${metadata.namespace}/${metadata.name}`),
      [
        'ConfigMap/mesh-ns/linkerd-cni-config',
        'ServiceAccount/mesh-ns/nodemesh-keeper',
        'DaemonSet/mesh-ns/nodemesh-keeper',
        'ServiceAccount/mesh-ns/nodemesh-agent',
        'DaemonSet/mesh-ns/nodemesh-agent',
      ],
    );
    for (const name of both) assert.equal(podOf(name)['automountServiceAccountToken'], false);
  });

  it('runs on every node, whatever its taints, before the network of pods works', () => {
    for (const name of both) {
      const pod = podOf(name);
      assert.deepEqual(pod['tolerations'], [{ operator: 'Exists' }]);
      assert.equal(pod['priorityClassName'], 'system-node-critical');
      assert.equal(pod['hostNetwork'], true);
      assert.equal(pod['dnsPolicy'], 'ClusterFirstWithHostNet');
    }
  });

  it('takes no port from the second agent of an upgrade, which runs beside the first', () => {
    const { updateStrategy, template } = daemonSet('nodemesh-agent').spec;
    assert.deepEqual(updateStrategy, {
      type: 'RollingUpdate',
      rollingUpdate: { maxSurge: 1, maxUnavailable: 0 },
    });
    for (const { ports } of template.spec.containers) assert.equal(ports, undefined);
    assert.deepEqual(daemonSet('nodemesh-keeper').spec.updateStrategy, { type: 'OnDelete' });
  });

  it('gives the agent time to drain', () => {
    const config = loadAgentConfig(environment(containerOf('nodemesh-agent', 'agent')));
    const grace = Number(podOf('nodemesh-agent')['terminationGracePeriodSeconds']) * 1000;
    assert.ok(grace >= config.drainGraceMs + 10_000, `${grace}`);
  });

  it('selects its own pods', () => {
    for (const name of both) {
      const { selector, template } = daemonSet(name).spec;
      for (const [key, text] of Object.entries(selector.matchLabels))
        assert.equal(template.metadata.labels[key], text);
    }
    const [agent, keeper] = both.map((name) => daemonSet(name).spec.selector.matchLabels);
    assert.notDeepEqual(agent, keeper);
  });

  it('asks for images by registry and version', () => {
    const values = { nodemesh: { registry: 'registry.example.com/mirror', version: '9.9.9' } };
    assert.deepEqual(
      both.flatMap((name) => podOf(name, values).containers.map(({ image }) => image)),
      ['agent', 'agent', 'keeper'].map((image) => `registry.example.com/mirror/nodemesh/${image}:9.9.9`),
    );
  });
});

describe("the agent's environment", () => {
  const services = {
    LINKERD_IDENTITY_SERVICE_HOST: '10.96.0.7',
    LINKERD_DST_SERVICE_HOST: 'fd00:96::8',
  };
  const container = (values?: ValuesMap) => containerOf('nodemesh-agent', 'agent', values);

  it('holds only settings that the agent has, and all that it needs', () => {
    const known = new Set<string>(Object.values(agentSettings).map(({ env }) => env));
    const given = environment(container());
    assert.deepEqual(
      Object.keys(given).filter((name) => !known.has(name)),
      [],
    );
    const config = loadAgentConfig(given);
    assert.equal(config.nodeName, 'worker-1');
    assert.deepEqual(config.nodeIps, ['10.0.0.5', 'fd00::5']);
  });

  it('reaches the control plane by ClusterIP, and by name where the Services are others or came later', () => {
    const config = loadAgentConfig(environment(container(), services));
    const names = {
      identity: 'linkerd-identity.mesh-ns.svc.cluster.local:8080',
      destination: 'linkerd-dst.mesh-ns.svc.cluster.local:8086',
    };
    assert.equal(config.identityAddress, `10.96.0.7:8080,${names.identity}`);
    assert.equal(config.destinationAddress, `[fd00:96::8]:8086,${names.destination}`);
    const late = loadAgentConfig(environment(container({ clusterDomain: 'example.internal' })));
    assert.equal(late.identityAddress, 'linkerd-identity.mesh-ns.svc.example.internal:8080');
    assert.equal(late.destinationAddress, 'linkerd-dst.mesh-ns.svc.example.internal:8086');
    // Under these names and ports are the Services.
    const controlPlane = controlPlaneObjects({ values: checkValues({}).values, namespace, version });
    for (const [name, port] of [
      ['linkerd-identity', 8080],
      ['linkerd-dst', 8086],
    ]) {
      const found = controlPlane.find((one) => one.kind === 'Service' && one.metadata.name === name);
      assert.ok(found, String(name));
      const { type, ports } = found['spec'] as { type: string; ports: { port: number }[] };
      assert.deepEqual([type, ports.map((one) => one.port)], ['ClusterIP', [port]]);
    }
  });

  it("has the control plane prove its accounts' identities", () => {
    const values = { identity: { namespace: 'other' }, identityTrustDomain: 'trust.example' };
    const config = loadAgentConfig(environment(container(values)));
    const identities = (account: string) =>
      identityOf({ name: account, namespace }, { identityNamespace: 'other', trustDomain: 'trust.example' });
    assert.equal(config.identityName, identities('linkerd-identity'));
    assert.equal(config.destinationName, identities('linkerd-destination'));
    assert.equal(config.trustDomain, 'trust.example');
    assert.equal(config.identityNamespace, 'other');
  });

  it('asks a stock Linkerd where the values name one', () => {
    assert.equal(loadAgentConfig(environment(container())).linkerdDestinationAddress, '');
    const linkerd = {
      destinationAddress: 'linkerd-dst.linkerd.svc.cluster.local:8086',
      destinationIdentity: 'destination.example',
      policyAddress: '[fd00::8]:8090',
      policyIdentity: 'policy.example',
    };
    const config = loadAgentConfig(environment(container({ nodemesh: { linkerd } })));
    assert.equal(config.linkerdDestinationAddress, linkerd.destinationAddress);
    assert.equal(config.linkerdDestinationName, linkerd.destinationIdentity);
    assert.equal(config.linkerdPolicyAddress, linkerd.policyAddress);
    assert.equal(config.linkerdPolicyName, linkerd.policyIdentity);
    const without = { nodemesh: { linkerd: { destinationAddress: 'linkerd-dst.linkerd' } } };
    assert.throws(() => container(without), /nodemesh\.linkerd\.destinationAddress.*name:port/s);
  });

  it('names the account that identity and destination know agents by', () => {
    const config = loadAgentConfig(environment(container()));
    assert.equal(podOf('nodemesh-agent')['serviceAccountName'], config.serviceAccount);
    assert.equal(identitySettings.agentServiceAccount.default, config.serviceAccount);
    assert.equal(destinationSettings.agentServiceAccount.default, config.serviceAccount);
  });

  it('has a token for each service, each of its own audience in its own volume', () => {
    const config = loadAgentConfig(environment(container()));
    const pod = podOf('nodemesh-agent');
    const audiences = (file: string): string[] => {
      const mount = container().volumeMounts.find(({ mountPath }) => file.startsWith(`${mountPath}/`));
      assert.equal(mount?.readOnly, true);
      const volume = pod.volumes.find(({ name }) => name === mount?.name);
      return (volume?.projected?.sources ?? []).map((source) => source.serviceAccountToken.audience);
    };
    assert.deepEqual(audiences(config.identityTokenFile), [tokenAudiences.agent]);
    assert.deepEqual(audiences(config.destinationTokenFile), [tokenAudiences.nodeStream]);
  });

  it('looks for cgroups, processes and its own socket where they are mounted', () => {
    const config = loadAgentConfig(environment(container()));
    const mounts = container().volumeMounts;
    const at = (path: string) =>
      mounts.find(({ mountPath }) => path === mountPath || path.startsWith(`${mountPath}/`));
    const nodes = new Map(
      podOf('nodemesh-agent').volumes.map(({ name, hostPath }) => [name, hostPath?.path]),
    );
    for (const [path, node] of [
      [config.cgroupMount, '/sys/fs/cgroup'],
      [config.hostProc, '/proc'],
      [config.bpffs, '/sys/fs/bpf'],
      [config.runDir, '/run/nodemesh'],
      [config.stateDir, '/var/lib/nodemesh'],
      ['/var/run/netns/cni-1', '/var/run/netns'],
      [config.probeSocket, undefined],
    ] as const)
      assert.equal(nodes.get(at(path)?.name ?? ''), node, path);
    assert.equal(at('/var/run/netns')?.mountPropagation, 'HostToContainer');
    assert.equal(at(config.hostProc)?.readOnly, true);
  });

  it('is probed at its own socket, by a program of its image', () => {
    const config = loadAgentConfig(environment(container()));
    const copies = Object.values(imageLayouts.find(({ name }) => name === 'agent')?.copies ?? {});
    for (const [probe, path] of [
      ['livenessProbe', '/live'],
      ['readinessProbe', '/ready'],
    ] as const) {
      const { command } = (container()[probe] as { exec: { command: readonly string[] } }).exec;
      assert.deepEqual(command.slice(1), [config.probeSocket, path]);
      assert.ok(copies.includes(command[0] ?? ''), String(command[0]));
    }
  });
});

describe('the rights of what runs on the nodes', () => {
  const containers = [
    ...both.flatMap((name) => podOf(name).containers),
    ...(['initContainers', 'containers'] as const).flatMap((key) => {
      const [found] = renderObjects([removal], {
        values: checkValues({}, cniValues).values,
        namespace,
        creator: '',
      }) as unknown as DaemonSet[];
      return found?.spec.template.spec[key] ?? [];
    }),
  ];

  it('are no more than the table says, and none is privileged', () => {
    for (const { name, securityContext } of containers) {
      assert.notEqual(securityContext.privileged, true, name);
      assert.equal(securityContext.readOnlyRootFilesystem, true, name);
      assert.deepEqual(securityContext.capabilities.drop, ['ALL'], name);
    }
    for (const { name, securityContext } of both.flatMap((one) => podOf(one).containers)) {
      const allowed = capabilityRights.filter(({ container }) => container === name);
      assert.deepEqual(
        securityContext.capabilities.add ?? [],
        allowed.map(({ capability }) => capability),
      );
    }
    for (const name of both) {
      assert.equal(podOf(name)['hostPID'], undefined);
      assert.equal(podOf(name)['hostIPC'], undefined);
      const folders = podOf(name).volumes.flatMap(({ hostPath }) =>
        hostPath === undefined ? [] : [hostPath.path],
      );
      const known = nodeFolders.map(({ onNode }) => onNode);
      for (const folder of folders)
        assert.ok(known.includes(folder) || ['/etc/cni/net.d', '/opt/cni/bin'].includes(folder), folder);
    }
  });

  it('each have a reason', () => {
    for (const { reason } of [...capabilityRights, ...nodeFolders]) assert.match(reason, /^[A-Z].*\.$/s);
  });

  it('are used through volumes that exist', () => {
    for (const name of both) {
      const pod = podOf(name);
      const volumes = new Set(pod.volumes.map((one) => one.name));
      const used = pod.containers.flatMap(({ volumeMounts }) => volumeMounts.map((one) => one.name));
      assert.deepEqual([...volumes].sort(), [...new Set(used)].sort());
      assert.equal(volumes.size, pod.volumes.length);
    }
  });
});

describe('the programs of the containers', () => {
  it('are in the image', () => {
    const agent = imageLayouts.find(({ name }) => name === 'agent');
    const { command } = containerOf('nodemesh-agent', 'installer');
    assert.ok(agent?.entries.includes(command?.[1] ?? ''));
    assert.ok(agent?.entries.includes('daemonset/remove.ts'));
    // The image's own program, which starts the agent again when it crashes.
    assert.equal(containerOf('nodemesh-agent', 'agent').command, undefined);
  });
});
