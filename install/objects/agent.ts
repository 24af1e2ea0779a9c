// SPDX-License-Identifier: Apache-2.0
// The agent of each node, with the installer of the CNI plugin beside it. It has no right in the Kubernetes API; its
// two tokens are for identity and destination, each for one of them only.

import { allValues, namespace, type ObjectGroup, text, type TreeMap, value } from '../tree.ts';
import {
  env,
  metadata,
  ownIdentity,
  serviceAccount,
  trustDomain,
  trustRoots,
  trustRootsFile,
} from './common.ts';
import { RUN_DIR } from './node-rights.ts';
import { nodePods } from './node-pods.ts';

export const AGENT_NAME = 'nodemesh-agent';
export const CNI_CONFIG_MAP = 'linkerd-cni-config';
const COMPONENT = 'agent';
/** Of the pod alone: two agents share the node during an upgrade. */
const OWN_DIR = '/run/nodemesh-pod';
const OWN_SOCKET = `${OWN_DIR}/probe.sock`;
const DRAIN_SECONDS = 120;
/** For what comes after the drain: last words to the keeper. */
const END_SECONDS = 15;
const TOKEN_SECONDS = 3600;

interface Token {
  readonly volume: string;
  readonly path: string;
  readonly audience: string;
}

/** Each in a volume of its own: whoever has one has not the other. */
const identityToken: Token = {
  volume: 'identity-token',
  path: '/var/run/secrets/identity.nodemesh.io',
  audience: 'identity.nodemesh.io/agent',
};
const destinationToken: Token = {
  volume: 'destination-token',
  path: '/var/run/secrets/destination.nodemesh.io',
  audience: 'destination.nodemesh.io/node',
};

const tokenVolume = ({ volume, audience }: Token): TreeMap => ({
  name: volume,
  projected: {
    defaultMode: 0o400,
    sources: [{ serviceAccountToken: { path: 'token', expirationSeconds: TOKEN_SECONDS, audience } }],
  },
});

const ofPod = (name: string, fieldPath: string): TreeMap => ({
  name,
  valueFrom: { fieldRef: { apiVersion: 'v1', fieldPath } },
});

/** By ClusterIP, which needs no DNS; by name if the Service came later than the agent, or was made anew. */
const addressOf = (service: string, port: number) =>
  text(
    `$(${service.toUpperCase().replaceAll('-', '_')}_SERVICE_HOST):${port},${service}.`,
    namespace,
    '.svc.',
    value('clusterDomain'),
    `:${port}`,
  );

const probe = (path: string): TreeMap => ({
  exec: { command: ['/app/build/probe', OWN_SOCKET, path] },
  timeoutSeconds: 5,
});

export const cniConfig: ObjectGroup = {
  name: 'cni-config',
  objects: [
    {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: metadata(CNI_CONFIG_MAP, COMPONENT),
      data: { values: allValues },
    },
  ],
};

export const agent: ObjectGroup = {
  name: 'agent',
  objects: [
    serviceAccount(AGENT_NAME, COMPONENT),
    nodePods({
      name: AGENT_NAME,
      component: COMPONENT,
      // The new one runs beside the old one and takes over; then the old one ends.
      updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      graceSeconds: DRAIN_SECONDS + END_SECONDS,
      containers: [
        {
          name: 'agent',
          image: 'nodemesh.agentImage',
          env: [
            ofPod('NODEMESH_NODE_NAME', 'spec.nodeName'),
            ofPod('NODEMESH_NODE_IPS', 'status.hostIPs'),
            ofPod('NODEMESH_POD_UID', 'metadata.uid'),
            env('NODEMESH_NAMESPACE', namespace),
            env('NODEMESH_SERVICE_ACCOUNT', AGENT_NAME),
            env('NODEMESH_TRUST_DOMAIN', trustDomain),
            env('NODEMESH_IDENTITY_NAMESPACE', value('identity.namespace')),
            trustRootsFile,
            env('NODEMESH_IDENTITY_ADDRESS', addressOf('linkerd-identity', 8080)),
            env('NODEMESH_IDENTITY_NAME', ownIdentity('linkerd-identity')),
            env('NODEMESH_IDENTITY_TOKEN_FILE', `${identityToken.path}/token`),
            env('NODEMESH_DESTINATION_ADDRESS', addressOf('linkerd-dst', 8086)),
            env('NODEMESH_DESTINATION_NAME', ownIdentity('linkerd-destination')),
            env('NODEMESH_DESTINATION_TOKEN_FILE', `${destinationToken.path}/token`),
            env('NODEMESH_LINKERD_DESTINATION_ADDRESS', value('nodemesh.linkerd.destinationAddress')),
            env('NODEMESH_LINKERD_DESTINATION_NAME', value('nodemesh.linkerd.destinationIdentity')),
            env('NODEMESH_LINKERD_POLICY_ADDRESS', value('nodemesh.linkerd.policyAddress')),
            env('NODEMESH_LINKERD_POLICY_NAME', value('nodemesh.linkerd.policyIdentity')),
            env('NODEMESH_CGROUP_MOUNT', '/host/sys/fs/cgroup'),
            env('NODEMESH_HOST_PROC', '/host/proc'),
            env('NODEMESH_PROBE_SOCKET', OWN_SOCKET),
            env('NODEMESH_SHUTDOWN_GRACE', `${DRAIN_SECONDS}s`),
            env('NODEMESH_SAME_NODE', value('nodemesh.sameNode')),
            env('NODEMESH_LOG_LEVEL', value('logLevel')),
          ],
          mounts: [
            { name: 'own', mountPath: OWN_DIR },
            { name: trustRoots.name, mountPath: trustRoots.path, readOnly: true },
            ...[identityToken, destinationToken].map(({ volume, path }) => ({
              name: volume,
              mountPath: path,
              readOnly: true,
            })),
          ],
          resources: 'resources',
          more: {
            livenessProbe: {
              ...probe('/live'),
              initialDelaySeconds: 30,
              periodSeconds: 10,
              failureThreshold: 3,
              // One that does not answer does not drain either.
              terminationGracePeriodSeconds: 10,
            },
            readinessProbe: { ...probe('/ready'), periodSeconds: 5, failureThreshold: 3 },
          },
        },
        {
          name: 'installer',
          image: 'nodemesh.agentImage',
          command: ['node', 'daemonset/install.ts', 'watch'],
          env: [
            ofPod('NODEMESH_POD_UID', 'metadata.uid'),
            env('NODEMESH_NAMESPACE', namespace),
            env('NODEMESH_CNI_EXCLUDE_NAMESPACES', value('nodemesh.excludeNamespaces')),
            env('NODEMESH_INSTALLER_ROLE', `${RUN_DIR}/installer`),
          ],
          mounts: [],
          resources: 'nodemesh.installerResources',
        },
      ],
      volumes: [
        { name: 'own', emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } },
        { name: trustRoots.name, ...trustRoots.source },
        ...[identityToken, destinationToken].map(tokenVolume),
      ],
    }),
  ],
};

export const KEEPER_NAME = 'nodemesh-keeper';
const KEEPER_COMPONENT = 'keeper';

export const keeper: ObjectGroup = {
  name: 'keeper',
  objects: [
    serviceAccount(KEEPER_NAME, KEEPER_COMPONENT),
    nodePods({
      name: KEEPER_NAME,
      component: KEEPER_COMPONENT,
      // With it go the listeners that it holds: only when somebody deletes its pod.
      updateStrategy: { type: 'OnDelete' },
      graceSeconds: 5,
      containers: [
        {
          name: 'keeper',
          image: 'nodemesh.keeperImage',
          args: ['--socket', `${RUN_DIR}/keeper.sock`],
          env: [],
          mounts: [],
          resources: 'nodemesh.keeperResources',
        },
      ],
      volumes: [],
    }),
  ],
};
