// SPDX-License-Identifier: Apache-2.0
// Destination: endpoints, profiles, routes and each node's workloads.

import { namespace, type ObjectGroup, text, value } from '../tree.ts';
import {
  controlPlane,
  disruptionBudget,
  env,
  metadata,
  ownIdentity,
  service,
  serviceAccount,
  trustDomain,
  trustRoots,
  trustRootsFile,
} from './common.ts';
import { rbacOf } from './rbac.ts';

const NAME = 'linkerd-destination';
const COMPONENT = 'destination';
const GRPC_PORT = 8086;
/** Where Linkerd's proxies ask for policy. */
const POLICY_PORT = 8090;
const ADMIN_PORT = 9996;
const TOKEN_PATH = '/var/run/secrets/tokens';

const grpcService = (name: string, port: number, headless: boolean, targetPort = 'grpc') =>
  service({ name, component: COMPONENT, headless, portName: 'grpc', port, targetPort });

/**
 * Thousands of streams are held for hours, and what passes is short-lived: a small young generation and one arena of the C
 * library keep what is free from being spread over memory (docs/performance.md).
 */
export const destinationRuntime: Readonly<Record<string, string>> = {
  NODE_OPTIONS: '--max-semi-space-size=8',
  MALLOC_ARENA_MAX: '1',
};

export const destination: ObjectGroup = {
  name: 'destination',
  objects: [
    ...rbacOf(NAME, COMPONENT),
    serviceAccount(NAME, COMPONENT),
    grpcService('linkerd-dst', GRPC_PORT, false),
    grpcService('linkerd-dst-headless', GRPC_PORT, true),
    grpcService('linkerd-policy', POLICY_PORT, true, 'policy'),
    // Who holds it is written by the replicas: they need no right to make one.
    { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata: metadata(NAME, COMPONENT) },
    disruptionBudget('linkerd-dst', COMPONENT),
    controlPlane({
      name: NAME,
      component: COMPONENT,
      program: 'destination/main.ts',
      env: [
        env('NODEMESH_NAMESPACE', namespace),
        env('NODEMESH_IDENTITY_NAMESPACE', value('identity.namespace')),
        env('NODEMESH_TRUST_DOMAIN', trustDomain),
        env('NODEMESH_CLUSTER_DOMAIN', value('clusterDomain')),
        trustRootsFile,
        env(
          'NODEMESH_IDENTITY_ADDRESS',
          text('linkerd-identity.', namespace, '.svc.', value('clusterDomain'), ':8080'),
        ),
        env('NODEMESH_IDENTITY_NAME', ownIdentity('linkerd-identity')),
        env('NODEMESH_IDENTITY_TOKEN_FILE', `${TOKEN_PATH}/linkerd-identity-token`),
        env('NODEMESH_CLUSTER_NETWORKS', value('clusterNetworks')),
        env('NODEMESH_DEFAULT_INBOUND_POLICY', value('proxy.defaultInboundPolicy')),
        env('NODEMESH_DEFAULT_OPAQUE_PORTS', value('proxy.opaquePorts')),
        env('NODEMESH_SKIP_INBOUND_PORTS', value('proxyInit.ignoreInboundPorts')),
        env('NODEMESH_SKIP_OUTBOUND_PORTS', value('proxyInit.ignoreOutboundPorts')),
        env('NODEMESH_STARTUP_TAINT', value('nodemesh.startupTaint')),
        env('NODEMESH_BESIDE_LINKERD', text(value('nodemesh.besideLinkerd'))),
        env('NODEMESH_ALLOW_L5D_REQUEST_HEADERS', text(value('nodemesh.allowL5dRequestHeaders'))),
        env('NODEMESH_LOG_LEVEL', value('controllerLogLevel')),
        ...Object.entries(destinationRuntime).map(([name, of]) => env(name, of)),
      ],
      ports: [
        { name: 'grpc', port: GRPC_PORT },
        { name: 'policy', port: POLICY_PORT },
        { name: 'admin', port: ADMIN_PORT },
      ],
      volumes: [
        trustRoots,
        {
          name: 'identity-token',
          path: TOKEN_PATH,
          source: {
            projected: {
              sources: [
                {
                  serviceAccountToken: {
                    path: 'linkerd-identity-token',
                    expirationSeconds: 86_400,
                    audience: 'identity.l5d.io',
                  },
                },
              ],
            },
          },
        },
      ],
      resources: 'destinationResources',
    }),
  ],
};
