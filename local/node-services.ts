// SPDX-License-Identifier: Apache-2.0
// Keeps one node's service rules (nftables) and DNS records (dnsmasq) in step with the store. What they say is
// service-rules.ts and dns-records.ts.

import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { inNetns, runChecked } from './command.ts';
import { afterChanges } from './controllers.ts';
import { dnsHosts } from './dns-records.ts';
import { CLUSTER_DOMAIN, DNS_ADDRESS, type NodeLayout } from './layout.ts';
import { serviceRules } from './service-rules.ts';
import type { Store } from './store.ts';
import { SupervisedProgram } from './supervise.ts';

const dnsmasqArgv = (node: NodeLayout): string[] => [
  'dnsmasq',
  '--keep-in-foreground',
  '--conf-file=/dev/null',
  '--user=root',
  '--pid-file=',
  '--bind-interfaces',
  `--listen-address=${DNS_ADDRESS.v4}`,
  `--listen-address=${DNS_ADDRESS.v6}`,
  '--no-resolv',
  '--no-hosts',
  '--no-negcache',
  '--local-ttl=5',
  `--addn-hosts=${node.hostsFile}`,
  `--local=/${CLUSTER_DOMAIN}/`,
  // Nothing outside is reachable: "no such name" at once instead of a refusal that resolvers repeat.
  '--local=/#/',
];

export class NodeServices {
  readonly #store: Store;
  readonly #node: NodeLayout;
  readonly #log: Log;
  readonly #dnsmasq: SupervisedProgram;
  readonly #watch: { close: () => void };
  #rules = '';
  #hosts = '';
  #busy: Promise<void> | undefined;
  #again = false;

  constructor(store: Store, node: NodeLayout, clock: Clock, log: Log) {
    this.#store = store;
    this.#node = node;
    this.#log = log;
    writeFileSync(node.hostsFile, '', { mode: 0o600 });
    this.#dnsmasq = new SupervisedProgram(
      {
        name: `dnsmasq of ${node.name}`,
        argv: dnsmasqArgv(node),
        env: { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin' },
        netns: node.netns,
        cgroup: node.systemCgroup,
        logFile: join(node.logDir, 'dnsmasq.log'),
      },
      clock,
      log,
    );
    this.#watch = afterChanges(store, () => this.#sync());
  }

  /** Resolves when nothing of it moves any more; dnsmasq goes with its cgroup. */
  async close(): Promise<void> {
    this.#watch.close();
    this.#dnsmasq.abandon();
    while (this.#busy !== undefined) await this.#busy;
  }

  /** Resolves when rules and records follow from the store as it is now. */
  async settled(): Promise<void> {
    this.#sync();
    while (this.#busy !== undefined) await this.#busy;
  }

  #sync(): void {
    if (this.#busy !== undefined) {
      this.#again = true;
      return;
    }
    this.#busy = this.#apply()
      .catch((error: unknown) => {
        this.#rules = '';
        this.#log.error({ node: this.#node.name, error: errorMessage(error) }, 'service rules were refused');
      })
      .finally(() => {
        this.#busy = undefined;
        if (this.#again) {
          this.#again = false;
          this.#sync();
        }
      });
  }

  async #apply(): Promise<void> {
    const services = this.#store.list('Service');
    const pods = this.#store.list('Pod');
    const hosts = dnsHosts(services, pods);
    if (hosts !== this.#hosts) {
      this.#hosts = hosts;
      writeFileSync(`${this.#node.hostsFile}.new`, hosts, { mode: 0o600 });
      renameSync(`${this.#node.hostsFile}.new`, this.#node.hostsFile);
      this.#dnsmasq.reload();
    }
    const rules = serviceRules(this.#node, services, pods);
    if (rules === this.#rules) return;
    await runChecked(inNetns(this.#node.netns, ['nft', '-f', '-']), { input: rules });
    this.#rules = rules;
  }
}
