// SPDX-License-Identifier: Apache-2.0
// The field names of the kinds that people write for `mesh local`, so that a typing mistake is told instead of
// being ignored. Only names: types are checked by lib/registry/resource-schema.ts. Not a Kubernetes schema; what
// is inside a field without a shape of its own is not looked at.

import type { FieldProblem } from '#lib/registry/resource-schema.ts';

/** Field names; `name:Shape` for an object, `name:Shape[]` for a list of objects. */
const shapes: Readonly<Record<string, string>> = {
  Namespace: 'apiVersion kind metadata:Meta spec status',
  Node: 'apiVersion kind metadata:Meta spec status',
  ServiceAccount: 'apiVersion kind metadata:Meta secrets imagePullSecrets automountServiceAccountToken',
  Pod: 'apiVersion kind metadata:Meta spec:PodSpec status',
  Service: 'apiVersion kind metadata:Meta spec:ServiceSpec status',
  EndpointSlice: 'apiVersion kind metadata:Meta addressType endpoints:Endpoint[] ports',
  Deployment: 'apiVersion kind metadata:Meta spec:DeploymentSpec status',
  ReplicaSet: 'apiVersion kind metadata:Meta spec:ReplicaSetSpec status',
  Meta:
    'name namespace uid labels annotations creationTimestamp deletionTimestamp deletionGracePeriodSeconds ' +
    'ownerReferences:OwnerReference[] finalizers generateName generation managedFields resourceVersion selfLink',
  OwnerReference: 'apiVersion kind name uid controller blockOwnerDeletion',
  DeploymentSpec:
    'replicas selector:Selector template:Template strategy minReadySeconds revisionHistoryLimit paused ' +
    'progressDeadlineSeconds',
  ReplicaSetSpec: 'replicas selector:Selector template:Template minReadySeconds',
  Selector: 'matchLabels matchExpressions',
  Template: 'metadata:Meta spec:PodSpec',
  PodSpec:
    'activeDeadlineSeconds affinity automountServiceAccountToken containers:Container[] dnsConfig dnsPolicy ' +
    'enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname ' +
    'hostnameOverride imagePullSecrets initContainers:Container[] nodeName nodeSelector os overhead ' +
    'preemptionPolicy priority priorityClassName readinessGates resourceClaims resources restartPolicy ' +
    'runtimeClassName schedulerName schedulingGates securityContext serviceAccount serviceAccountName ' +
    'setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations ' +
    'topologySpreadConstraints volumes',
  Container:
    'args command env:EnvVar[] envFrom image imagePullPolicy lifecycle livenessProbe:Probe name ' +
    'ports:ContainerPort[] readinessProbe:Probe resizePolicy resources restartPolicy restartPolicyRules ' +
    'securityContext:SecurityContext startupProbe:Probe stdin stdinOnce terminationMessagePath ' +
    'terminationMessagePolicy tty volumeDevices volumeMounts workingDir',
  EnvVar: 'name value valueFrom',
  ContainerPort: 'containerPort hostIP hostPort name protocol',
  SecurityContext:
    'allowPrivilegeEscalation appArmorProfile capabilities:Capabilities privileged procMount ' +
    'readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser seLinuxOptions seccompProfile windowsOptions',
  Capabilities: 'add drop',
  Probe:
    'exec failureThreshold grpc:GrpcProbe httpGet:HttpProbe initialDelaySeconds periodSeconds successThreshold ' +
    'tcpSocket:TcpProbe terminationGracePeriodSeconds timeoutSeconds',
  HttpProbe: 'host httpHeaders path port scheme',
  GrpcProbe: 'port service',
  TcpProbe: 'host port',
  ServiceSpec:
    'allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName externalTrafficPolicy ' +
    'healthCheckNodePort internalTrafficPolicy ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP ' +
    'loadBalancerSourceRanges ports:ServicePort[] publishNotReadyAddresses selector sessionAffinity ' +
    'sessionAffinityConfig trafficDistribution type',
  Endpoint: 'addresses conditions deprecatedTopology hints:Hints hostname nodeName targetRef zone',
  Hints: 'forNodes forZones:ForZone[]',
  ForZone: 'name',
  ServicePort: 'appProtocol name nodePort port protocol targetPort',
  ExternalWorkload: 'apiVersion kind metadata:Meta spec:ExternalWorkloadSpec status',
  ExternalWorkloadSpec: 'meshTLS:MeshTls meshTls:MeshTls ports:ExternalPort[] workloadIPs:WorkloadIp[]',
  MeshTls: 'identity serverName',
  ExternalPort: 'name port protocol',
  WorkloadIp: 'ip',
  HTTPRoute: 'apiVersion kind metadata:Meta spec:HttpRouteSpec status',
  GRPCRoute: 'apiVersion kind metadata:Meta spec:GrpcRouteSpec status',
  HttpRouteSpec: 'hostnames parentRefs:ParentRef[] rules:HttpRouteRule[]',
  GrpcRouteSpec: 'hostnames parentRefs:ParentRef[] rules:GrpcRouteRule[]',
  ParentRef: 'group kind name namespace port sectionName',
  HttpRouteRule:
    'backendRefs:BackendRef[] filters:RouteFilter[] matches:HttpMatch[] name timeouts:RouteTimeouts',
  GrpcRouteRule: 'backendRefs:BackendRef[] filters:RouteFilter[] matches:GrpcMatch[] name',
  HttpMatch: 'headers:ValueMatch[] method path:PathMatch queryParams:ValueMatch[]',
  GrpcMatch: 'headers:ValueMatch[] method:GrpcMethod',
  GrpcMethod: 'method service type',
  PathMatch: 'type value',
  ValueMatch: 'name type value',
  RouteTimeouts: 'backendRequest request',
  BackendRef: 'filters:RouteFilter[] group kind name namespace port weight',
  RouteFilter:
    'cors extensionRef requestHeaderModifier:FieldChanges requestMirror requestRedirect:Redirect ' +
    'responseHeaderModifier:FieldChanges type urlRewrite',
  FieldChanges: 'add:FieldValue[] remove set:FieldValue[]',
  FieldValue: 'name value',
  Redirect: 'hostname path:RedirectPath port scheme statusCode',
  RedirectPath: 'replaceFullPath replacePrefixMatch type',
};

interface Field {
  readonly shape: string | undefined;
  readonly list: boolean;
}

const parsed = new Map<string, ReadonlyMap<string, Field>>(
  Object.entries(shapes).map(([shape, fields]) => [
    shape,
    new Map(
      fields.split(' ').map((field) => {
        const [name = '', type] = field.split(':');
        return [name, { shape: type?.replace('[]', ''), list: type?.endsWith('[]') ?? false }];
      }),
    ),
  ]),
);

/** Fields of `raw` that Kubernetes does not know, each with the nearest name that it does know. */
export function unknownFields(kind: string, raw: unknown): FieldProblem[] {
  const problems: FieldProblem[] = [];
  visit(kind, raw, '', problems);
  return problems;
}

function visit(shape: string, raw: unknown, path: string, problems: FieldProblem[]): void {
  const fields = parsed.get(shape);
  if (fields === undefined || typeof raw !== 'object' || raw === null || Array.isArray(raw)) return;
  for (const [name, value] of Object.entries(raw)) {
    const at = path === '' ? name : `${path}.${name}`;
    const field = fields.get(name);
    if (field === undefined)
      problems.push({ path: at, message: `is no field of Kubernetes${hint(name, fields)}` });
    else if (field.shape !== undefined && field.list && Array.isArray(value)) {
      for (const [index, item] of value.entries()) visit(field.shape, item, `${at}[${index}]`, problems);
    } else if (field.shape !== undefined) visit(field.shape, value, at, problems);
  }
}

function hint(name: string, fields: ReadonlyMap<string, Field>): string {
  let best: { name: string; distance: number } | undefined;
  for (const known of fields.keys()) {
    const distance = editDistance(name.toLowerCase(), known.toLowerCase());
    if (distance <= 2 && (best === undefined || distance < best.distance)) best = { name: known, distance };
  }
  return best === undefined ? '' : `; did you mean "${best.name}"?`;
}

/** Levenshtein; names of fields are short. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
