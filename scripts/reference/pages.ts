// SPDX-License-Identifier: Apache-2.0
// The pages of docs/reference that are made from tables in the code. A test compares them with what is committed;
// `make docs` writes them.

import assert from 'node:assert/strict';
import { Registry as MetricRegistry } from 'prom-client';
import { accountRules } from '../../install/objects/rbac.ts';
import { cniValues } from '../../install/cni-values-table.ts';
import { capabilityRights, nodeFolders } from '../../install/objects/node-rights.ts';
import type { Field } from '../../install/value-fields.ts';
import { fields } from '../../install/values-table.ts';
import { agentSettings } from '../../agent/config.ts';
import { certificateMetrics, type CertificateMetricsSources } from '../../agent/node/certificate-metrics.ts';
import { controlFamilies } from '../../agent/node/control-metrics.ts';
import { nodeMetrics, type NodeMetricsSources } from '../../agent/node/node-metrics.ts';
import { failures } from '../../agent/proxy/failure.ts';
import { proxyFamilies } from '../../agent/proxy/metrics/families.ts';
import { destinationSettings } from '../../destination/config.ts';
import { createDestinationMetrics } from '../../destination/metrics.ts';
import { identitySettings } from '../../identity/config.ts';
import { createIdentityMetrics } from '../../identity/metrics.ts';
import { webhookSettings } from '../../webhook/config.ts';
import { createWebhookMetrics } from '../../webhook/metrics.ts';
import type { MetricFamily } from '#lib/metrics/model.ts';
import { createKubernetesCounts } from '#lib/registry-kubernetes/counts.ts';
import { systemClock } from '#lib/core/clock.ts';
import type { SettingTable } from '#lib/core/config.ts';
import { errorCatalogue } from '#lib/core/errors.ts';
import { readCatalogues } from '../conformance/catalogue.ts';
import { evidenceOfSources } from '../conformance/evidence.ts';
import { conformancePage } from '../conformance/page.ts';
import { cniConformancePage } from './cni-conformance.ts';

export const note = '<!-- Made by `make docs` from the code: change it there. -->';

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.map(cell).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

const paragraph = (...lines: readonly string[]): string => lines.join('\n');

/** Defaults that are computed on the machine where the program runs, in words. */
const computedDefaults: Readonly<Record<string, string>> = {
  NODEMESH_WORKERS: 'the number of cores, at most 4',
};

function settingsTable(settings: SettingTable): string {
  const rows = Object.values(settings).map((setting) => [
    `\`${setting.env}\``,
    computedDefaults[setting.env] ??
      (setting.default === undefined
        ? '(required)'
        : setting.default === ''
          ? '(empty)'
          : `\`${setting.default}\``),
    setting.doc,
  ]);
  return table(['variable', 'default', 'meaning'], rows);
}

function errorsPage(): string {
  const codes = Object.entries(errorCatalogue).map(([code, meaning]) => [`\`${code}\``, meaning]);
  const answers = failures
    .filter((failure) => failure.name !== 'none')
    .map((failure) => [
      `\`${failure.name}\``,
      String(failure.status),
      failure.message === '' ? '(none)' : `\`${failure.message}\``,
      failure.closes ? 'yes' : 'no',
    ]);
  return [
    '# Errors',
    note,
    'Every error of a program has one of these codes, and a message that says what happened, to whom, and what to do.',
    table(['code', 'meaning'], codes),
    '## What a client of the proxy is told',
    paragraph(
      'When the proxy itself answers a request, the answer has this status and header; the name is the value of the label',
      '`error` in metrics and of the field in logs. A TCP connection is closed instead.',
    ),
    table(['name', 'status', '`l5d-proxy-error`', 'connection closes'], answers),
  ].join('\n\n');
}

function settingsPage(): string {
  return [
    '# Settings',
    note,
    paragraph(
      'Programs read environment variables, once, at their start. A value that cannot be used ends the program with',
      '`MESH_CONFIG_INVALID` and names every such value. Durations are written `300ms`, `10s`, `5m`, `1h`, `1d`.',
    ),
    '## Agent (`agent/main.ts`)',
    settingsTable(agentSettings),
    '## Identity (`identity/main.ts`)',
    settingsTable(identitySettings),
    '## Destination (`destination/main.ts`)',
    settingsTable(destinationSettings),
    '## Policy webhook (`webhook/main.ts`)',
    settingsTable(webhookSettings),
  ].join('\n\n');
}

/** Every family that the agent's control thread reads when it is asked. */
function collectedFamilies(): MetricFamily[] {
  const families: MetricFamily[] = [];
  const registry = { collect: (family: MetricFamily) => void families.push(family) };
  // What they would read is read by nobody here.
  certificateMetrics(registry, {} as CertificateMetricsSources);
  nodeMetrics(registry, {} as NodeMetricsSources);
  return families;
}

/** Rows of what this adds to a program's metrics; those of Node.js itself are left out. */
function familiesOf(add: (register: MetricRegistry) => unknown): string[][] {
  const register = new MetricRegistry();
  add(register);
  return register
    .getMetricsAsArray()
    .filter(({ name }) => !/^(nodejs|process)_/.test(name))
    .map(({ name, type, help }) => [`\`${name}\``, type, help]);
}

const neverRead = (): never => assert.fail('nobody scrapes here');
const identityFamilies = (register: MetricRegistry): unknown =>
  createIdentityMetrics(register, neverRead, systemClock);
const webhookFamilies = (register: MetricRegistry): unknown =>
  createWebhookMetrics(register, neverRead, systemClock);

function metricsPage(): string {
  const row = (family: MetricFamily): string[] => [`\`${family.name}\``, family.type, family.help];
  const known = new Set(proxyFamilies.map(({ name }) => name));
  const ofNode = [...controlFamilies, ...collectedFamilies()].filter(({ name }) => !known.has(name));
  return [
    '# Metrics',
    note,
    paragraph(
      "The agent serves `http://<node's InternalIP>:4191/metrics`. Names, labels and buckets are Linkerd's, so that queries",
      'and dashboards made for it work; what starts with `nodemesh_` is ours. Every series of a pod also has `namespace`,',
      '`pod`, the owner (`deployment`, `statefulset`, …), `control_plane_ns` and `workload_ns`: scrape with `honor_labels`.',
      'Traffic between two pods of one node says `tls="true"` with both identities and `same_node="true"`: its ends are',
      'vouched for by the kernel, it is not encrypted. A series goes about ten minutes after the last peer, connection or request',
      'that it speaks of, also if a crashed worker had counted it, and at once with its own pod. Linkerd counts what a TLSRoute',
      'routes in `outbound_tls_…`: there are no such routes here, TLS of applications is opaque and in `outbound_tcp_…`.',
    ),
    '## Of pods',
    table(['name', 'type', 'meaning'], proxyFamilies.map(row)),
    '## Of the node',
    paragraph(
      'With the label `node`, but for those of certificates, which are of pods. Linkerd’s families of its implementation',
      '(`rustls_info`, `tokio_rt_*`, `stack_*`) do not exist, nor `control_dns_resolutions_total` and',
      '`control_*_balancer_*`: the system resolves the names of the control plane, and gRPC keeps one connection to each',
      'part of it. `outbound_tls_*` and `route_*` come with the routes that they are of.',
    ),
    table(['name', 'type', 'meaning'], ofNode.map(row)),
    '## Of the control plane',
    paragraph(
      'Each program on its admin port, beside what prom-client tells of Node.js and the process (`nodejs_…`, `process_…`).',
      'Identity:',
    ),
    table(['name', 'type', 'meaning'], familiesOf(identityFamilies)),
    'Destination:',
    table(['name', 'type', 'meaning'], familiesOf(createDestinationMetrics)),
    'The webhook:',
    table(['name', 'type', 'meaning'], familiesOf(webhookFamilies)),
    'Identity and destination, when they read a cluster:',
    table(['name', 'type', 'meaning'], familiesOf(createKubernetesCounts)),
  ].join('\n\n');
}

const valuesTable = (of: ReadonlyMap<string, Field>): string =>
  table(
    ['value', 'default', 'meaning'],
    [...of].map(([path, field]) => [
      `\`${path}\``,
      field.default === '' ? '(empty)' : `\`${JSON.stringify(field.default)}\``,
      field.doc,
    ]),
  );

function cniValuesPage(): string {
  return [
    '# Values of what runs on the nodes',
    note,
    paragraph(
      'For `mesh install-cni` (`--set`, `--set-string`, `--set-file`, `-f`) and for the chart `charts/nodemesh-cni`. Keys are',
      'those of Linkerd’s CNI chart where it has one; keys of it that configure its sidecars, their ports or its images are',
      'taken and mean nothing. Any other key is refused.',
    ),
    valuesTable(cniValues.fields),
  ].join('\n\n');
}

function nodeRightsPage(): string {
  const folders = nodeFolders.map((folder) => [
    folder.container,
    typeof folder.onNode === 'string'
      ? `\`${folder.onNode}\``
      : `\`${folder.onNode.$ === 'value' ? folder.onNode.path : ''}\` (a value)`,
    folder.readOnly === true ? 'read' : 'read, write',
    folder.reason,
  ]);
  return [
    '# What runs on a node may do there',
    note,
    paragraph(
      'Every capability of the containers on the nodes and every folder of the node that they see, with what needs it. All other',
      'capabilities are dropped. None is `privileged`, none shares the process namespace of the node, and none has a right in the',
      'Kubernetes API. All are in the node’s network namespace and run as root; root file systems are read-only.',
    ),
    table(
      ['container', 'capability', 'needed for'],
      capabilityRights.map(({ container, capability, reason }) => [container, `\`${capability}\``, reason]),
    ),
    table(['container', 'folder of the node', 'may', 'needed for'], folders),
  ].join('\n\n');
}

function valuesPage(): string {
  return [
    '# Values of the installation',
    note,
    paragraph(
      'For `mesh install` and `mesh upgrade` (`--set`, `--set-string`, `--set-file`, `-f`) and for the chart',
      '`charts/nodemesh-control-plane`. Keys are those of Linkerd’s chart where it has one; keys of it that configure sidecars,',
      'its injector or its heartbeat are taken and mean nothing. Any other key is refused.',
    ),
    valuesTable(fields),
  ].join('\n\n');
}

function rbacPage(): string {
  const rows = accountRules.map((rule) => [
    `\`${rule.account}\``,
    [
      rule.apiGroup === '' ? '' : `\`${rule.apiGroup}\``,
      rule.resources.map((resource) => `\`${resource}\``).join(', '),
      rule.resourceNames === undefined
        ? ''
        : `named ${rule.resourceNames.map((name) => `\`${name}\``).join(', ')}`,
      rule.ownNamespace === true ? 'in the install namespace' : '',
    ]
      .filter((text) => text !== '')
      .join(' '),
    rule.verbs.join(', '),
    rule.feature,
  ]);
  return [
    '# What the control plane may do',
    note,
    paragraph(
      'Every right of the control plane’s accounts, with what stops working without it. Agents have no right in the',
      'Kubernetes API at all.',
    ),
    table(['account', 'on', 'verbs', 'needed for'], rows),
  ].join('\n\n');
}

/** Path under docs/reference and text of each page. */
export function referencePages(): ReadonlyMap<string, string> {
  return new Map(
    Object.entries({
      'errors.md': errorsPage(),
      'settings.md': settingsPage(),
      'metrics.md': metricsPage(),
      'values.md': valuesPage(),
      'cni-values.md': cniValuesPage(),
      'node-rights.md': nodeRightsPage(),
      'rbac.md': rbacPage(),
      'cni-conformance.md': cniConformancePage(note),
      'conformance.md': conformancePage(note, readCatalogues(), evidenceOfSources()),
    }).map(([path, text]) => [path, `${text}\n`]),
  );
}
