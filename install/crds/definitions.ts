// SPDX-License-Identifier: Apache-2.0
// Linkerd's resource kinds that the mesh works with: names, versions and fields are Linkerd's, the definitions our
// own. The Gateway API's kinds are never installed.

import { clusterMetadata } from '../objects/common.ts';
import type { ObjectGroup, TreeMap } from '../tree.ts';
import { httpRouteSpec, routeStatus } from './route-schema.ts';
import {
  conditions,
  exactlyOne,
  flag,
  integer,
  intOrText,
  labelSelector,
  list,
  localTarget,
  name,
  network,
  number,
  object,
  oneOf,
  open,
  port,
  reference,
  type Schema,
  text,
} from './schema.ts';

interface Version {
  readonly name: string;
  readonly spec: Schema;
  readonly status?: Schema;
  readonly deprecated?: boolean;
  /** Name and JSON path. */
  readonly columns?: readonly (readonly [string, string])[];
}

interface Definition {
  readonly group: string;
  readonly kind: string;
  readonly plural: string;
  readonly singular: string;
  readonly shortNames: readonly string[];
  /** The last one is what is stored, and what the mesh reads. */
  readonly versions: readonly [Version, ...Version[]];
}

const POLICY = 'policy.linkerd.io';

const accessColumn = ['Access Policy', '.spec.accessPolicy'] as const;
const serverColumns = [
  ['Port', '.spec.port'],
  ['Protocol', '.spec.proxyProtocol'],
] as const;

const serverSpec = (more: Readonly<Record<string, Schema>>): Schema =>
  object(
    {
      podSelector: labelSelector,
      ...('accessPolicy' in more ? { externalWorkloadSelector: labelSelector } : {}),
      'port!': intOrText,
      proxyProtocol: text({ default: 'unknown' }),
      ...more,
    },
    'accessPolicy' in more
      ? exactlyOne('podSelector', 'externalWorkloadSelector')
      : { required: ['podSelector', 'port'] },
  );

const rate = object({ 'requestsPerSecond!': integer(1) });

const serviceAccountRef = object({ 'name!': name, namespace: text() });

const serverAuthorizationSpec = object({
  'server!': object({ name: text(), selector: labelSelector }, exactlyOne('name', 'selector')),
  'client!': object({
    networks: list(network),
    unauthenticated: flag(),
    meshTLS: object({
      unauthenticatedTLS: flag(),
      identities: list(text()),
      serviceAccounts: list(serviceAccountRef),
    }),
  }),
});

const routeSpec = object({
  'name!': text({ minLength: 1 }),
  'condition!': open,
  timeout: text(),
  isRetryable: flag(),
  responseClasses: list(object({ 'condition!': open, isFailure: flag() })),
});

const serviceProfileSpec = object({
  routes: list(routeSpec),
  retryBudget: object({
    'retryRatio!': number({ minimum: 0 }),
    'minRetriesPerSecond!': integer(0),
    'ttl!': text(),
  }),
  dstOverrides: list(object({ 'authority!': text(), 'weight!': intOrText })),
  opaquePorts: list(text()),
});

const externalWorkloadSpec = (tls: string, addressesMax: number): Schema =>
  object({
    [`${tls}!`]: object({
      'identity!': text({ minLength: 1, maxLength: 253 }),
      'serverName!': text({ minLength: 1, maxLength: 253 }),
    }),
    ports: list(
      object({
        name: text(),
        'port!': port,
        protocol: text({ enum: ['TCP', 'UDP', 'SCTP'], default: 'TCP' }),
      }),
      { maxItems: 255 },
    ),
    workloadIPs: list(object({ 'ip!': text() }), { maxItems: addressesMax }),
  });

const externalWorkloadStatus = object({
  conditions: list(
    object({
      'type!': text(),
      'status!': oneOf('True', 'False', 'Unknown'),
      reason: text(),
      message: text(),
      lastProbeTime: text({ format: 'date-time' }),
      lastTransitionTime: text({ format: 'date-time' }),
    }),
  ),
});

export const definitions: readonly Definition[] = [
  {
    group: POLICY,
    kind: 'AuthorizationPolicy',
    plural: 'authorizationpolicies',
    singular: 'authorizationpolicy',
    shortNames: ['authzpolicy'],
    versions: [
      {
        name: 'v1alpha1',
        spec: object({ 'targetRef!': localTarget, 'requiredAuthenticationRefs!': list(reference) }),
      },
    ],
  },
  {
    group: POLICY,
    kind: 'EgressNetwork',
    plural: 'egressnetworks',
    singular: 'egressnetwork',
    shortNames: [],
    versions: [
      {
        name: 'v1alpha1',
        spec: object({ 'trafficPolicy!': oneOf('Allow', 'Deny'), networks: list(network, { minItems: 1 }) }),
        status: object({ conditions }),
      },
    ],
  },
  {
    group: POLICY,
    kind: 'HTTPLocalRateLimitPolicy',
    plural: 'httplocalratelimitpolicies',
    singular: 'httplocalratelimitpolicy',
    shortNames: [],
    versions: [
      {
        name: 'v1alpha1',
        spec: object({
          'targetRef!': localTarget,
          total: rate,
          identity: rate,
          overrides: list(
            object({ 'requestsPerSecond!': integer(1), 'clientRefs!': list(reference, { minItems: 1 }) }),
          ),
        }),
        status: object({ conditions, targetRef: localTarget }),
      },
    ],
  },
  {
    group: POLICY,
    kind: 'HTTPRoute',
    plural: 'httproutes',
    singular: 'httproute',
    shortNames: [],
    versions: [
      { name: 'v1alpha1', spec: httpRouteSpec(false), status: routeStatus, deprecated: true },
      { name: 'v1beta1', spec: httpRouteSpec(false), status: routeStatus },
      { name: 'v1beta2', spec: httpRouteSpec(false), status: routeStatus },
      { name: 'v1beta3', spec: httpRouteSpec(true), status: routeStatus },
    ],
  },
  {
    group: POLICY,
    kind: 'MeshTLSAuthentication',
    plural: 'meshtlsauthentications',
    singular: 'meshtlsauthentication',
    shortNames: ['meshtlsauthn'],
    versions: [
      {
        name: 'v1alpha1',
        spec: object(
          {
            identities: list(text({ minLength: 1 }), { minItems: 1 }),
            identityRefs: list(reference, { minItems: 1 }),
          },
          exactlyOne('identities', 'identityRefs'),
        ),
      },
    ],
  },
  {
    group: POLICY,
    kind: 'NetworkAuthentication',
    plural: 'networkauthentications',
    singular: 'networkauthentication',
    shortNames: ['netauthn', 'networkauthn'],
    versions: [{ name: 'v1alpha1', spec: object({ 'networks!': list(network, { minItems: 1 }) }) }],
  },
  {
    group: POLICY,
    kind: 'ServerAuthorization',
    plural: 'serverauthorizations',
    singular: 'serverauthorization',
    shortNames: ['saz', 'serverauthz'],
    versions: [
      { name: 'v1alpha1', spec: serverAuthorizationSpec, deprecated: true },
      { name: 'v1beta1', spec: serverAuthorizationSpec },
    ],
  },
  {
    group: POLICY,
    kind: 'Server',
    plural: 'servers',
    singular: 'server',
    shortNames: ['srv'],
    versions: [
      { name: 'v1alpha1', spec: serverSpec({}), columns: serverColumns, deprecated: true },
      { name: 'v1beta1', spec: serverSpec({}), columns: serverColumns, deprecated: true },
      { name: 'v1beta2', spec: serverSpec({}), columns: serverColumns },
      {
        name: 'v1beta3',
        spec: serverSpec({ accessPolicy: text({ default: 'deny' }) }),
        columns: [...serverColumns, accessColumn],
      },
    ],
  },
  {
    group: 'linkerd.io',
    kind: 'ServiceProfile',
    plural: 'serviceprofiles',
    singular: 'serviceprofile',
    shortNames: ['sp'],
    versions: [
      { name: 'v1alpha1', spec: serviceProfileSpec },
      { name: 'v1alpha2', spec: serviceProfileSpec },
    ],
  },
  {
    group: 'workload.linkerd.io',
    kind: 'ExternalWorkload',
    plural: 'externalworkloads',
    singular: 'externalworkload',
    shortNames: [],
    versions: [
      { name: 'v1alpha1', spec: externalWorkloadSpec('meshTls', 1), status: externalWorkloadStatus },
      {
        name: 'v1beta1',
        spec: externalWorkloadSpec('meshTLS', 2),
        status: externalWorkloadStatus,
        columns: [
          ['Identity', '.spec.meshTLS.identity'],
          ['Age', '.metadata.creationTimestamp'],
        ],
      },
    ],
  },
];

export const nameOf = (definition: Definition): string => `${definition.plural}.${definition.group}`;

/** The version that the mesh reads: a definition of somebody else must serve it. */
export const readVersionOf = (definition: Definition): string => definition.versions.at(-1)?.name ?? '';

function definitionObject(definition: Definition): TreeMap {
  const { group, kind, plural, singular, shortNames } = definition;
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: clusterMetadata(nameOf(definition), 'crds'),
    spec: {
      group,
      scope: 'Namespaced',
      names: {
        kind,
        listKind: `${kind}List`,
        plural,
        singular,
        ...(shortNames.length > 0 ? { shortNames } : {}),
      },
      versions: definition.versions.map((version) => versionOf(definition, version)),
    },
  };
}

function versionOf(definition: Definition, version: Version): TreeMap {
  const { status, columns, deprecated } = version;
  const newest = `${definition.group}/${readVersionOf(definition)}`;
  return {
    name: version.name,
    served: true,
    storage: version.name === readVersionOf(definition),
    ...(deprecated === true
      ? {
          deprecated,
          deprecationWarning: `${definition.group}/${version.name} ${definition.kind} is deprecated; use ${newest} ${definition.kind}`,
        }
      : {}),
    schema: {
      openAPIV3Schema: object({
        apiVersion: text(),
        kind: text(),
        metadata: { type: 'object' },
        'spec!': version.spec,
        ...(status === undefined ? {} : { status }),
      }),
    },
    ...(status === undefined ? {} : { subresources: { status: {} } }),
    ...(columns === undefined
      ? {}
      : {
          additionalPrinterColumns: columns.map(([title, jsonPath]) => ({
            name: title,
            type: title === 'Age' ? 'date' : 'string',
            jsonPath,
          })),
        }),
  };
}

/** One file of the chart for each. */
export const definitionGroups: readonly ObjectGroup[] = definitions.map((definition) => ({
  name: nameOf(definition),
  objects: [definitionObject(definition)],
}));
