// SPDX-License-Identifier: Apache-2.0
// Whether the pods that asked for the mesh are in it, and whether their annotations mean what their author thinks.

import { eligibility } from '#lib/registry/eligibility.ts';
import { defaultMeshSettings } from '#lib/registry/mesh-settings.ts';
import { ENROLLED_CONDITION, type Namespace, type Pod } from '#lib/registry/model.ts';
import { parseResource } from '#lib/registry/resource-schema.ts';
import { effectiveConfig } from '#lib/registry/workload-config.ts';
import { lookUp } from '../../install/values.ts';
import type { ClusterObject } from '../install/cluster.ts';
import { type Category, listProblem, Problem, type Scene } from './check.ts';
import { installedValues } from './control-plane-checks.ts';
import { conditionOf, listOf, type PodObject, podName } from './objects.ts';

const CLUSTER = 'local';

const chosen = <O extends ClusterObject>(objects: readonly O[], { only }: Scene): readonly O[] =>
  only === '' ? objects : objects.filter(({ metadata }) => metadata.namespace === only);

/** `docs/reference/annotations.md` has what each means; every other one of Linkerd's is about its sidecar. */
const honoured: ReadonlySet<string> = new Set(
  [
    'access-log',
    'default-inbound-policy',
    'enable-external-profiles',
    'opaque-ports',
    'proxy-disable-inbound-protocol-detect-timeout',
    'proxy-disable-outbound-protocol-detect-timeout',
    'proxy-inbound-connect-timeout',
    'proxy-outbound-connect-timeout',
    'proxy-require-identity-inbound-ports',
    'skip-inbound-ports',
    'skip-outbound-ports',
    'skip-subnets',
  ].map((name) => `config.linkerd.io/${name}`),
);
export const meansNothing = (annotation: string): boolean =>
  /^config\.((alpha|beta)\.)?linkerd\.io\//.test(annotation) && !honoured.has(annotation);

interface Asked {
  readonly pod: PodObject;
  /** It can be in the mesh. */
  readonly fit: boolean;
  readonly reason: string;
  /** Of annotations that cannot be read. */
  readonly warnings: readonly string[];
}

/** Pods that run and asked for the mesh. */
async function asked(scene: Scene): Promise<readonly Asked[]> {
  const settings = {
    ...defaultMeshSettings,
    namespace: scene.namespace,
    besideLinkerd: lookUp(await installedValues(scene), 'nodemesh.besideLinkerd') === true,
  };
  const namespaces = new Map<string, Namespace>();
  for (const raw of await listOf(scene.cluster, '/api/v1/namespaces')) {
    const parsed = parseResource('Namespace', raw, CLUSTER);
    if (parsed.ok) namespaces.set(raw.metadata.name, parsed.resource as Namespace);
  }
  const pods = chosen(await listOf<PodObject>(scene.cluster, '/api/v1/pods'), scene);
  return pods.flatMap((pod) => {
    const parsed = parseResource('Pod', pod, CLUSTER);
    if (!parsed.ok || pod.status?.phase !== 'Running') return [];
    const parsedPod = parsed.resource as Pod;
    const namespace = namespaces.get(pod.metadata.namespace ?? '');
    const is = eligibility(parsedPod, namespace, settings);
    if (!is.enrol && !is.asked) return [];
    const { warnings } = effectiveConfig(parsedPod, namespace, settings);
    return [{ pod, fit: is.enrol, reason: is.reason, warnings }];
  });
}

const ofMesh = /^(config\.(alpha\.)?linkerd\.io\/|linkerd\.io\/inject$)/;

const misplacedLabels = (objects: readonly ClusterObject[]): string[] =>
  objects.flatMap((object) => {
    const wrong = Object.keys(object.metadata.labels ?? {}).filter(
      (label) => ofMesh.test(label) && label !== 'config.linkerd.io/admission-webhooks',
    );
    return wrong.length === 0 ? [] : [[podName(object), ...wrong.map((label) => `\t\t${label}`)].join('\n')];
  });

export const dataPlane: Category = {
  name: 'linkerd-data-plane',
  checks: [
    {
      text: 'data plane namespace exists',
      anchor: 'l5d-data-plane-exists',
      kind: 'fatal',
      async look({ cluster, only }) {
        if (only !== '' && (await cluster.get(`/api/v1/namespaces/${only}`)) === undefined)
          throw new Problem(`The "${only}" namespace does not exist`);
      },
    },
    {
      text: 'data plane pods are enrolled',
      anchor: 'l5d-data-plane-ready',
      retry: true,
      async look(scene) {
        const waiting = (await asked(scene)).flatMap(({ pod, fit }) => {
          const enrolled = conditionOf(pod, ENROLLED_CONDITION);
          if (!fit || enrolled?.status === 'True') return [];
          const why = enrolled === undefined ? 'no agent has said anything of it' : (enrolled.message ?? '');
          return [`${podName(pod)}: ${why}`];
        });
        if (waiting.length > 0) throw listProblem('Some pods asked for the mesh and are not in it:', waiting);
      },
    },
    {
      text: 'pods that asked for the mesh can be in it',
      anchor: 'l5d-data-plane-eligible',
      kind: 'warning',
      async look(scene) {
        const unfit = (await asked(scene)).filter(({ fit }) => !fit);
        if (unfit.length > 0) {
          throw listProblem(
            'Some pods asked for the mesh and cannot be in it:',
            unfit.map(({ pod, reason }) => `${podName(pod)}: ${reason}`),
          );
        }
      },
    },
    {
      text: 'annotations of data plane pods mean something here',
      anchor: 'l5d-data-plane-annotations',
      kind: 'warning',
      async look(scene) {
        const ignored = (await asked(scene)).flatMap(({ pod }) => {
          const found = Object.keys(pod.metadata.annotations ?? {}).filter(meansNothing);
          return found.length === 0 ? [] : [`${podName(pod)}: ${found.join(', ')}`];
        });
        if (ignored.length > 0)
          throw listProblem('Some annotations configure a sidecar and are ignored:', ignored);
      },
    },
    {
      text: 'annotations of data plane pods can be read',
      anchor: 'l5d-data-plane-annotation-values',
      kind: 'warning',
      async look(scene) {
        const unread = (await asked(scene)).flatMap(({ pod, warnings }) =>
          warnings.map((warning) => `${podName(pod)}: ${warning}`),
        );
        if (unread.length > 0)
          throw listProblem('Some annotations cannot be read and count as not set:', unread);
      },
    },
    {
      text: 'data plane pod labels are configured correctly',
      anchor: 'l5d-data-plane-pod-labels',
      kind: 'warning',
      async look(scene) {
        const wrong = misplacedLabels(chosen(await listOf(scene.cluster, '/api/v1/pods'), scene));
        if (wrong.length > 0)
          throw listProblem('Some labels on data plane pods should be annotations:', wrong);
      },
    },
    {
      text: 'data plane service labels are configured correctly',
      anchor: 'l5d-data-plane-services-labels',
      kind: 'warning',
      async look(scene) {
        const wrong = misplacedLabels(chosen(await listOf(scene.cluster, '/api/v1/services'), scene));
        if (wrong.length > 0)
          throw listProblem('Some labels on data plane services should be annotations:', wrong);
      },
    },
  ],
};
