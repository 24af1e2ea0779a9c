// SPDX-License-Identifier: Apache-2.0
// Whether a pod is in the mesh: opted in by linkerd.io/inject, and of a kind that can be meshed. Each "no" says
// why; if the user asked for the mesh, that becomes an Event on the pod.

import type { MeshSettings } from './mesh-settings.ts';
import { type Namespace, type Pod, podTerminal } from './model.ts';
import { containersOf } from './workload-config.ts';

export const INJECT_ANNOTATION = 'linkerd.io/inject';

export type OptIn =
  | { readonly optedIn: true; readonly ingress: boolean }
  | { readonly optedIn: false; readonly reason: string };

export type Eligibility =
  | { readonly enrol: true; readonly ingress: boolean; readonly reason: '' }
  /** `asked`: the user opted in, so that an Event says why the pod is not meshed. */
  | { readonly enrol: false; readonly asked: boolean; readonly reason: string };

const injecting = (value: string | undefined): boolean => value === 'enabled' || value === 'ingress';

/** The truth table of linkerd.io/inject over namespace and pod. */
export function optIn(pod: Pod, namespace: Namespace | undefined): OptIn {
  const ofNamespace = namespace?.metadata.annotations[INJECT_ANNOTATION];
  const ofPod = pod.metadata.annotations[INJECT_ANNOTATION];
  const no = (reason: string): OptIn => ({ optedIn: false, reason });
  if (
    ofNamespace !== undefined &&
    ofNamespace !== '' &&
    ofNamespace !== 'disabled' &&
    !injecting(ofNamespace)
  ) {
    return no(
      `the namespace has ${INJECT_ANNOTATION}="${ofNamespace}": expected enabled, ingress or disabled`,
    );
  }
  if (ofPod === undefined) {
    return injecting(ofNamespace)
      ? { optedIn: true, ingress: ofNamespace === 'ingress' }
      : no(`neither the pod nor its namespace has ${INJECT_ANNOTATION}=enabled`);
  }
  if (injecting(ofPod)) return { optedIn: true, ingress: ofPod === 'ingress' };
  if (ofPod === 'disabled') return no(`the pod has ${INJECT_ANNOTATION}=disabled`);
  return no(`the pod has ${INJECT_ANNOTATION}="${ofPod}": expected enabled, ingress or disabled`);
}

export function eligibility(pod: Pod, namespace: Namespace | undefined, settings: MeshSettings): Eligibility {
  const choice = optIn(pod, namespace);
  if (!choice.optedIn) return { enrol: false, asked: false, reason: choice.reason };
  const reason = hindrance(pod, namespace, settings);
  if (reason !== undefined) return { enrol: false, asked: true, reason };
  return { enrol: true, ingress: choice.ingress, reason: '' };
}

/** Namespaces whose pods start in the mesh unless they say otherwise; the CNI plugin keeps them on disk. */
export function namespaceEnrolled(namespace: Namespace, settings: MeshSettings): boolean {
  return (
    injecting(namespace.metadata.annotations[INJECT_ANNOTATION]) &&
    namespaceHindrance(namespace.metadata.name, namespace, settings) === undefined
  );
}

const meshContainers: ReadonlySet<string> = new Set(['linkerd-proxy', 'istio-proxy']);

/** Names of runtime classes whose pods do not use this kernel's sockets. */
const foreignKernel = /gvisor|runsc|kata|firecracker|cloud-hypervisor|edera|quark/i;

/** Why a pod cannot be meshed, or undefined. */
function hindrance(pod: Pod, namespace: Namespace | undefined, settings: MeshSettings): string | undefined {
  if (podTerminal(pod)) return `the pod has ended (${pod.status.phase})`;
  if (pod.spec.hostNetwork)
    return 'the pod uses the network of its node (hostNetwork): it has no address of its own';
  const other = containersOf(pod).find((container) => meshContainers.has(container.name));
  if (other !== undefined) return `the pod has the container ${other.name}: another mesh serves it`;
  if (foreignKernel.test(pod.spec.runtimeClassName)) {
    return `the pod runs under ${pod.spec.runtimeClassName}: its sockets are not this kernel's`;
  }
  if (isStatic(pod))
    return 'the pod is static (started by the kubelet from a file): it has no ServiceAccount';
  return namespaceHindrance(pod.metadata.namespace, namespace, settings);
}

function namespaceHindrance(
  name: string,
  namespace: Namespace | undefined,
  settings: MeshSettings,
): string | undefined {
  if (name === 'kube-system') return 'pods of kube-system are never meshed';
  if (name === settings.namespace) return `pods of ${name} are the mesh itself`;
  const label = namespace?.metadata.labels['config.linkerd.io/admission-webhooks'];
  if (settings.besideLinkerd && label !== 'disabled') {
    return `Linkerd's injector serves namespace ${name}; label it config.linkerd.io/admission-webhooks=disabled`;
  }
  return undefined;
}

/** Mirror pods: the kubelet's name for the static pod's manifest stands in an annotation, and a Node owns them. */
const isStatic = (pod: Pod): boolean =>
  'kubernetes.io/config.mirror' in pod.metadata.annotations ||
  pod.metadata.ownerReferences.some((owner) => owner.kind === 'Node');
