// SPDX-License-Identifier: Apache-2.0
// The certificate authority with its issuer and trust anchors.

import { equals, given, namespace, not, type ObjectGroup, required, value, when } from '../tree.ts';
import {
  controlPlane,
  disruptionBudget,
  env,
  metadata,
  service,
  serviceAccount,
  TRUST_ROOTS,
  trustDomain,
  trustRoots,
  trustRootsFile,
} from './common.ts';
import { rbacOf } from './rbac.ts';

const NAME = 'linkerd-identity';
const COMPONENT = 'identity';
const GRPC_PORT = 8080;
const ADMIN_PORT = 9990;
const ISSUER_PATH = '/var/run/linkerd/identity/issuer';

const ISSUER_REMEDY =
  'give the issuer in PEM, or set identity.issuer.scheme=kubernetes.io/tls if another program keeps it';

const linkerdScheme = equals('identity.issuer.scheme', 'linkerd.io/tls');

export const identityCredentials: ObjectGroup = {
  name: 'identity-credentials',
  objects: [
    when(linkerdScheme, {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: metadata('linkerd-identity-issuer', COMPONENT),
      stringData: {
        'crt.pem': required('identity.issuer.tls.crtPEM', ISSUER_REMEDY),
        'key.pem': required('identity.issuer.tls.keyPEM', ISSUER_REMEDY),
      },
    }),
    when(not(given('identity.externalCA')), {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: metadata(TRUST_ROOTS, COMPONENT),
      data: {
        'ca-bundle.crt': required(
          'identityTrustAnchorsPEM',
          'give the trust anchors in PEM, or set identity.externalCA',
        ),
      },
    }),
  ],
};

export const identity: ObjectGroup = {
  name: 'identity',
  objects: [
    ...rbacOf(NAME, COMPONENT),
    serviceAccount(NAME, COMPONENT),
    ...[NAME, `${NAME}-headless`].map((name) =>
      service({
        name,
        component: COMPONENT,
        headless: name !== NAME,
        portName: 'grpc',
        port: GRPC_PORT,
        targetPort: 'grpc',
      }),
    ),
    disruptionBudget(NAME, COMPONENT),
    controlPlane({
      name: NAME,
      component: COMPONENT,
      program: 'identity/main.ts',
      env: [
        env('NODEMESH_NAMESPACE', namespace),
        env('NODEMESH_IDENTITY_NAMESPACE', value('identity.namespace')),
        env('NODEMESH_TRUST_DOMAIN', trustDomain),
        trustRootsFile,
        {
          name: 'NODEMESH_ISSUER_CERT_FILE',
          value: when(linkerdScheme, `${ISSUER_PATH}/crt.pem`, `${ISSUER_PATH}/tls.crt`),
        },
        {
          name: 'NODEMESH_ISSUER_KEY_FILE',
          value: when(linkerdScheme, `${ISSUER_PATH}/key.pem`, `${ISSUER_PATH}/tls.key`),
        },
        env('NODEMESH_LEAF_LIFETIME', value('identity.issuer.issuanceLifetime')),
        env('NODEMESH_CLOCK_SKEW', value('identity.issuer.clockSkewAllowance')),
        env('NODEMESH_LOG_LEVEL', value('controllerLogLevel')),
      ],
      ports: [
        { name: 'grpc', port: GRPC_PORT },
        { name: 'admin', port: ADMIN_PORT },
      ],
      volumes: [
        trustRoots,
        { name: 'issuer', path: ISSUER_PATH, source: { secret: { secretName: 'linkerd-identity-issuer' } } },
      ],
      resources: 'identityResources',
    }),
  ],
};
