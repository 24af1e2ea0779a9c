// SPDX-License-Identifier: Apache-2.0
// What the daemon answers on its Unix socket (0600, in a 0700 directory): JSON over HTTP, one POST per call. The
// table `ApiCalls` is the contract with api-client.ts.

import { chmodSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import {
  annotateObject,
  type AppliedObject,
  DEFAULT_NAMESPACE,
  deleteObjects,
  manifestRefs,
  type ObjectRef,
} from './apply.ts';
import type { Daemon } from './daemon.ts';
import { type ManifestSource, parseManifests } from './manifests.ts';
import type { AgentAction } from './node-agent.ts';
import { type AnyObject, type Kind, namespaceOf } from './objects.ts';
import { type NodeSelfCheck, readSelfChecks } from './self-checks.ts';
import { waitForStore } from './store.ts';

const BODY_BYTES_MAX = 16 * 1024 * 1024;

export interface MeshStatus {
  readonly name: string;
  readonly pid: number;
  readonly meshed: boolean;
  readonly dir: string;
  readonly unready: readonly string[];
  /** The mesh's own programs with their process ids and how often they were started. */
  readonly programs: readonly {
    readonly name: string;
    readonly pid: number | undefined;
    readonly starts: number;
  }[];
}

interface PodRef {
  readonly namespace?: string | undefined;
  readonly pod: string;
  readonly container?: string | undefined;
}

export interface ApiCalls {
  status: { request: object; reply: MeshStatus };
  selfChecks: { request: object; reply: readonly NodeSelfCheck[] };
  apply: { request: { sources: readonly ManifestSource[] }; reply: readonly AppliedObject[] };
  delete: {
    request: { sources?: readonly ManifestSource[]; refs?: readonly ObjectRef[]; waitMs?: number };
    reply: readonly AppliedObject[];
  };
  annotate: { request: { ref: ObjectRef; items: readonly string[] }; reply: AppliedObject };
  get: { request: { kind: Kind; namespace?: string | undefined }; reply: readonly AnyObject[] };
  wait: { request: { timeoutMs: number }; reply: null };
  /** The command line that runs `argv` in the pod; whoever asks runs it, with a terminal if there is one. */
  exec: { request: PodRef & { argv: readonly string[] }; reply: { argv: readonly string[] } };
  logs: { request: PodRef; reply: { file: string } };
  /** Answers when the new agent is ready; after an upgrade when the earlier one has ended. `wait` false: neither. */
  agent: {
    /** `env` is for this start and those after it. */
    request: { node: string; action: AgentAction; wait: boolean; env?: Readonly<Record<string, string>> };
    reply: { pid?: number | undefined };
  };
  /** Answers when the node has booted; its agent and pods are on their way. */
  reboot: { request: { node: string }; reply: null };
}

export type ApiMethod = keyof ApiCalls;

type Handlers = {
  [M in ApiMethod]: (request: ApiCalls[M]['request']) => Promise<ApiCalls[M]['reply']>;
};

/** The pod that is meant: its name, or `deploy/NAME` for any pod of a Deployment. */
function findPod(daemon: Daemon, ref: PodRef): { namespace: string; name: string } {
  const namespace = ref.namespace ?? DEFAULT_NAMESPACE;
  const match = /^deploy(?:ment)?\/(.+)$/.exec(ref.pod);
  if (match?.[1] === undefined) return { namespace, name: ref.pod };
  const deployment = daemon.store.require('Deployment', namespace, match[1]);
  const pods = daemon.store.list('Pod').filter((pod) => {
    const set = pod.metadata.ownerReferences?.[0]?.name;
    return namespaceOf(pod) === namespace && set?.replace(/-[^-]+$/, '') === deployment.metadata.name;
  });
  const name = pods.find((pod) => pod.status.phase === 'Running')?.metadata.name ?? pods[0]?.metadata.name;
  if (name !== undefined) return { namespace, name };
  throw new MeshError('MESH_NOT_FOUND', `deployment ${namespace}/${match[1]} has no pod`, {
    retryable: true,
  });
}

function handlers(daemon: Daemon): Handlers {
  const { store } = daemon;
  return {
    status: async () => ({
      name: daemon.options.name,
      pid: process.pid,
      meshed: daemon.options.meshed,
      dir: daemon.layout.dir,
      unready: daemon.unready(),
      programs: [...daemon.programs].map(([name, program]) => ({
        name,
        pid: program.pid,
        starts: program.starts,
      })),
    }),
    selfChecks: async () => (daemon.options.meshed ? readSelfChecks(daemon.layout.nodes) : []),
    apply: async ({ sources }) => daemon.apply(sources),
    async delete({ sources, refs, waitMs }) {
      const wanted = [...manifestRefs(parseManifests(sources ?? [])), ...(refs ?? [])];
      const uids = wanted.map((ref) => store.get(ref.kind, ref.namespace, ref.name)?.metadata.uid);
      const deleted = deleteObjects(store, wanted);
      if (waitMs === undefined) return deleted;
      const left = (): AnyObject[] => store.all().filter((object) => uids.includes(object.metadata.uid));
      await waitForStore(
        store,
        () => left().length === 0,
        waitMs,
        () =>
          left()
            .map((object) => object.metadata.name)
            .join(', '),
      );
      return deleted;
    },
    annotate: async ({ ref, items }) => annotateObject(store, ref, items),
    get: async ({ kind, namespace }) =>
      store
        .list(kind)
        .filter((object: AnyObject) => namespace === undefined || namespaceOf(object) === namespace)
        .sort(
          (a: AnyObject, b: AnyObject) =>
            namespaceOf(a).localeCompare(namespaceOf(b)) || a.metadata.name.localeCompare(b.metadata.name),
        ),
    async wait({ timeoutMs }) {
      await daemon.waitReady(timeoutMs);
      return null;
    },
    async exec(request) {
      const { namespace, name } = findPod(daemon, request);
      const worker = daemon.podWorker(namespace, name);
      const container = worker.container(request.container);
      if (container === undefined)
        throw noContainer(namespace, name, request.container, worker.containerNames());
      return { argv: container.execArgv(request.argv) };
    },
    agent: async ({ node, action, wait, env }) => daemon.agent(node).act(action, wait, env),
    async reboot({ node }) {
      await daemon.reboot(node);
      return null;
    },
    async logs(request) {
      const { namespace, name } = findPod(daemon, request);
      const worker = daemon.podWorker(namespace, name);
      const names = [...worker.containerNames(), ...worker.pod.spec.initContainers.map((c) => c.name)];
      const container = request.container ?? names[0] ?? '';
      if (!names.includes(container)) throw noContainer(namespace, name, container, names);
      return { file: worker.logFile(container) };
    },
  };
}

const noContainer = (
  namespace: string,
  pod: string,
  container: string | undefined,
  names: readonly string[],
): MeshError =>
  new MeshError(
    'MESH_NOT_FOUND',
    container === undefined
      ? `pod ${namespace}/${pod} has no running container yet`
      : `pod ${namespace}/${pod} has no running container ${container}`,
    { remedy: `its containers are ${names.join(', ')}` },
  );

async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX)
      throw new MeshError('MESH_LIMIT', `a request of more than ${BODY_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return JSON.parse(Buffer.concat(chunks).toString() || '{}');
}

/** Serves until the returned function is called. */
export function serveApi(daemon: Daemon): Promise<() => void> {
  const table = handlers(daemon) as Readonly<Record<string, (request: unknown) => Promise<unknown>>>;
  const answer = async (request: IncomingMessage): Promise<unknown> => {
    const method = (request.url ?? '/').slice(1);
    const handler = Object.hasOwn(table, method) ? table[method] : undefined;
    if (handler === undefined) throw new MeshError('MESH_NOT_FOUND', `no such call: ${method}`);
    return handler(await readBody(request));
  };
  const reply = (response: ServerResponse, status: number, body: unknown): void => {
    // One call a connection: what is left of a call that was too long is not waited for.
    response.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
    response.end(JSON.stringify(body));
  };
  const server = createServer((request, response) => {
    answer(request).then(
      (value) => reply(response, 200, value),
      (error: unknown) => {
        const known = error instanceof MeshError;
        reply(response, 400, {
          code: known ? error.code : 'MESH_COMMAND_FAILED',
          message: errorMessage(error),
          retryable: known && error.retryable,
        });
      },
    );
  });
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen(daemon.layout.socketPath, () => {
      chmodSync(daemon.layout.socketPath, 0o600);
      resolve(() => {
        server.close();
        server.closeIdleConnections();
      });
    });
  });
}
