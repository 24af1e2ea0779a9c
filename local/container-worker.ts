// SPDX-License-Identifier: Apache-2.0
// One container of a pod over its restarts: command, environment, probes, back-off, status. Running it once is
// container.ts.

import { join } from 'node:path';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { runCommand } from './command.ts';
import { type ContainerHome, execArgv, type RunningContainer, startContainer } from './container.ts';
import { type ContainerPlan, expandVariables, type Mount, userOf } from './container-script.ts';
import type { NodeLayout } from './layout.ts';
import {
  type ContainerSpec,
  type ContainerState,
  type ContainerStatus,
  namespaceOf,
  type PodObject,
  type ProbeSpec,
} from './objects.ts';
import { probeTimes, runProbe } from './probe-loop.ts';
import type { Prober } from './prober.ts';

const RESTART_FIRST_MS = 500;
const RESTART_MAX_MS = 30_000;
/** A container that ran so long begins again with the shortest back-off. */
const RESTART_FORGET_MS = 60_000;
const SERVICE_ACCOUNT_PATH = '/run/secrets/kubernetes.io/serviceaccount';

export interface ContainerHost {
  readonly netns: string;
  readonly node: NodeLayout;
  readonly dir: string;
  /** The pod's cgroup; each container has one below it. */
  readonly cgroup: string;
  readonly hostname: string;
  readonly files: { readonly resolvConf: string; readonly hosts: string };
  /** Folders of the pod's volumes by name. */
  readonly volumes: ReadonlyMap<string, string>;
  readonly serviceAccountDir?: string;
  readonly probeHost: string;
  readonly prober: Prober;
  readonly logFile: (container: string) => string;
  readonly workingDir: string;
  readonly nodeDir: string;
  readonly delay: (ms: number, signal: AbortSignal) => Promise<void>;
  readonly now: () => string;
}

export type RestartPolicy = 'Always' | 'OnFailure' | 'Never';

/** What a fieldRef of an environment variable refers to. */
export function fieldValue(pod: PodObject, path: string): string {
  switch (path) {
    case 'metadata.name':
      return pod.metadata.name;
    case 'metadata.namespace':
      return namespaceOf(pod);
    case 'metadata.uid':
      return pod.metadata.uid;
    case 'spec.nodeName':
      return pod.spec.nodeName ?? '';
    case 'spec.serviceAccountName':
      return pod.spec.serviceAccountName;
    case 'status.hostIP':
      return pod.status.hostIP ?? '';
    case 'status.podIP':
      return pod.status.podIP ?? '';
    case 'status.podIPs':
      return (pod.status.podIPs ?? []).map(({ ip }) => ip).join(',');
    default: {
      const match = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path);
      const map = match?.[1] === 'labels' ? pod.metadata.labels : pod.metadata.annotations;
      return map[match?.[2] ?? ''] ?? '';
    }
  }
}

/** The container's environment in order, with references to earlier variables resolved. */
export function environmentOf(
  pod: PodObject,
  spec: ContainerSpec,
  base: readonly (readonly [string, string])[],
): Map<string, string> {
  const env = new Map(base);
  for (const item of spec.env) {
    const value =
      item.valueFrom === undefined
        ? expandVariables(item.value ?? '', env)
        : fieldValue(pod, item.valueFrom.fieldRef.fieldPath);
    env.set(item.name, value);
  }
  return env;
}

export class ContainerWorker {
  readonly spec: ContainerSpec;
  readonly #host: ContainerHost;
  readonly #pod: PodObject;
  readonly #changed: () => void;
  readonly #home: ContainerHome;
  #running: RunningContainer | undefined;
  #plan: ContainerPlan | undefined;
  #state: ContainerState = { waiting: { reason: 'PodInitializing' } };
  #lastState: ContainerState | undefined;
  #restarts = 0;
  #started = false;
  #ready = false;

  constructor(host: ContainerHost, pod: PodObject, spec: ContainerSpec, changed: () => void) {
    this.spec = spec;
    this.#host = host;
    this.#pod = pod;
    this.#changed = changed;
    this.#home = {
      netns: host.netns,
      cgroup: join(host.cgroup, spec.name),
      logFile: host.logFile(spec.name),
      ...host.files,
    };
  }

  status(): ContainerStatus {
    return {
      name: this.spec.name,
      image: this.spec.image,
      ready: this.#ready,
      started: this.#started,
      restartCount: this.#restarts,
      state: this.#state,
      ...(this.#lastState === undefined ? {} : { lastState: this.#lastState }),
    };
  }

  /** The command line, for whoever is root on this machine, that runs `argv` in the container. */
  execArgv(argv: readonly string[]): string[] {
    if (this.#running === undefined || this.#plan === undefined) {
      throw new MeshError('MESH_NOT_FOUND', `container ${this.spec.name} is not running`, {
        remedy: '"mesh local get pods" shows its state, "mesh local logs" what it said',
      });
    }
    return execArgv(this.#home, this.#plan, argv);
  }

  stop(graceMs: number): void {
    this.#running?.stop(graceMs);
  }

  /** Runs the container as often as `policy` asks for; resolves with the last exit code. */
  async run(policy: RestartPolicy, signal: AbortSignal): Promise<number> {
    let backoffMs = RESTART_FIRST_MS;
    let code = 0;
    while (!signal.aborted) {
      const begun = performance.now();
      const startedAt = this.#host.now();
      let reason: string;
      try {
        code = await this.#runOnce(signal);
        reason = code === 0 ? 'Completed' : 'Error';
      } catch (error) {
        code = 128;
        reason = errorMessage(error);
      }
      this.#started = false;
      this.#ready = false;
      const ended: ContainerState = {
        terminated: { exitCode: code, reason, startedAt, finishedAt: this.#host.now() },
      };
      const again = policy === 'Always' || (policy === 'OnFailure' && code !== 0);
      if (!again || signal.aborted) {
        this.#update(ended);
        return code;
      }
      if (performance.now() - begun > RESTART_FORGET_MS) backoffMs = RESTART_FIRST_MS;
      this.#lastState = ended;
      this.#update({ waiting: { reason: 'CrashLoopBackOff', message: `exit code ${code}: ${reason}` } });
      await this.#host.delay(backoffMs, signal);
      backoffMs = Math.min(RESTART_MAX_MS, backoffMs * 2);
      this.#restarts++;
    }
    return code;
  }

  async #runOnce(signal: AbortSignal): Promise<number> {
    const plan = this.#makePlan();
    const running = await startContainer(this.#home, plan);
    this.#plan = plan;
    this.#running = running;
    const probes = new AbortController();
    try {
      if (signal.aborted) running.stop(0);
      this.#started = this.spec.startupProbe === undefined;
      this.#ready = this.#started && this.spec.readinessProbe === undefined;
      this.#update({ running: { startedAt: this.#host.now() } });
      void this.#probe(running, probes.signal);
      return await running.exited;
    } finally {
      probes.abort();
      this.#running = undefined;
    }
  }

  #update(state: ContainerState): void {
    this.#state = state;
    this.#changed();
  }

  #makePlan(): ContainerPlan {
    const user = userOf(this.#pod.spec, this.spec);
    const env = environmentOf(this.#pod, this.spec, [
      ['PATH', `${this.#host.nodeDir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`],
      ['HOSTNAME', this.#host.hostname],
      ['HOME', user.uid === 0 ? '/root' : '/'],
    ]);
    const volumeMounts = this.spec.volumeMounts.map((mount): Mount => {
      const source = this.#host.volumes.get(mount.name);
      if (source === undefined) {
        throw new MeshError(
          'MESH_MANIFEST_INVALID',
          `container ${this.spec.name}: there is no volume ${mount.name}`,
        );
      }
      return { source, target: mount.mountPath, readOnly: mount.readOnly };
    });
    const account: Mount[] =
      this.#host.serviceAccountDir === undefined
        ? []
        : [{ source: this.#host.serviceAccountDir, target: SERVICE_ACCOUNT_PATH, readOnly: true }];
    return {
      dir: join(this.#host.dir, 'containers', this.spec.name),
      hostname: this.#host.hostname,
      mounts: [...account, ...volumeMounts],
      user,
      readOnlyRoot: this.spec.securityContext.readOnlyRootFilesystem === true,
      workingDir: this.spec.workingDir ?? this.#host.workingDir,
      env: [...env],
      argv: [...this.spec.command, ...this.spec.args].map((text) => expandVariables(text, env)),
    };
  }

  async #probe(running: RunningContainer, signal: AbortSignal): Promise<void> {
    const { startupProbe, readinessProbe, livenessProbe } = this.spec;
    const graceMs = this.#pod.spec.terminationGracePeriodSeconds * 1000;
    const loop = (
      spec: ProbeSpec,
      eager: boolean,
      onState: (success: boolean, problem: string | undefined) => 'go on' | 'stop',
    ): Promise<void> =>
      runProbe(probeTimes(spec, eager), () => this.#execute(spec), onState, signal, this.#host.delay);
    if (startupProbe !== undefined) {
      await loop(startupProbe, false, (success) => {
        if (success) this.#started = true;
        else running.stop(graceMs);
        return 'stop';
      });
      if (!this.#started || signal.aborted) return;
      if (readinessProbe === undefined) this.#ready = true;
      this.#changed();
    }
    if (readinessProbe !== undefined) {
      void loop(readinessProbe, true, (success) => {
        this.#ready = success;
        this.#changed();
        return 'go on';
      });
    }
    if (livenessProbe !== undefined) {
      void loop(livenessProbe, false, (success) => {
        if (success) return 'go on';
        running.stop(graceMs);
        return 'stop';
      });
    }
  }

  #portNumber(port: number | string): number {
    if (typeof port === 'number') return port;
    return this.spec.ports.find((candidate) => candidate.name === port)?.containerPort ?? 0;
  }

  async #execute(spec: ProbeSpec): Promise<string | undefined> {
    const timeoutMs = spec.timeoutSeconds * 1000;
    const { httpGet, tcpSocket, exec } = spec;
    if (httpGet !== undefined) {
      return this.#host.prober.probe({
        kind: 'http',
        host: httpGet.host ?? this.#host.probeHost,
        port: this.#portNumber(httpGet.port),
        path: httpGet.path,
        scheme: httpGet.scheme,
        headers: Object.fromEntries(httpGet.httpHeaders.map(({ name, value }) => [name, value])),
        timeoutMs,
      });
    }
    if (tcpSocket !== undefined) {
      return this.#host.prober.probe({
        kind: 'tcp',
        host: tcpSocket.host ?? this.#host.probeHost,
        port: this.#portNumber(tcpSocket.port),
        timeoutMs,
      });
    }
    if (exec === undefined) return undefined;
    try {
      const result = await runCommand(this.execArgv(exec.command), { timeoutMs });
      return result.code === 0 ? undefined : `exit code ${result.code}`;
    } catch (error) {
      return errorMessage(error);
    }
  }
}
