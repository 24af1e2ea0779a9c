// SPDX-License-Identifier: Apache-2.0
// An API server for tests, over HTTP: objects with versions, lists in pages, watches with a history, and faults on
// demand. Nothing of Kubernetes' admission, defaults or access control.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface StoredObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid: string;
    readonly resourceVersion: string;
  } & Readonly<Record<string, unknown>>;
  readonly [field: string]: unknown;
}

interface WatchEvent {
  readonly type: string;
  readonly object: unknown;
  readonly version: number;
}

interface OpenWatch {
  readonly response: ServerResponse;
}

interface Collection {
  readonly objects: Map<string, StoredObject>;
  events: WatchEvent[];
  /** Watches from an older version are told that it is forgotten. */
  oldest: number;
  readonly watches: Set<OpenWatch>;
}

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly body: unknown;
  readonly headers: IncomingMessage['headers'];
}

/** Answers in place of the server; false: it did not. */
export type Interception = (request: SeenRequest, response: ServerResponse) => boolean;

export const send = (
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
};

export const failure = (code: number, reason: string, message = reason) => ({
  kind: 'Status',
  status: 'Failure',
  code,
  reason,
  message,
});

type Fields = Readonly<Record<string, unknown>>;

/** What is put: the server adds version and uid. */
export interface PutObject extends Fields {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly [field: string]: unknown;
  };
}

export class FakeApiServer {
  readonly requests: SeenRequest[] = [];
  intercept: Interception | undefined;
  readonly #server: Server;
  readonly #collections = new Map<string, Collection>();
  #version = 100;
  #uids = 0;

  private constructor(collections: readonly string[]) {
    for (const path of collections) this.serve(path);
    this.#server = createServer((request, response) => void this.#answer(request, response));
  }

  static async start(collections: readonly string[]): Promise<FakeApiServer> {
    const fake = new FakeApiServer(collections);
    await new Promise<void>((resolve) => fake.#server.listen(0, '127.0.0.1', resolve));
    return fake;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Begins to serve a collection, such as `/api/v1/pods`. */
  serve(path: string): void {
    this.#collections.set(path, { objects: new Map(), events: [], oldest: 0, watches: new Set() });
  }

  /** Its definition is deleted: no objects are told to be gone. */
  unserve(path: string): void {
    for (const { response } of this.#of(path).watches) response.destroy();
    this.#collections.delete(path);
  }

  count(path: string, kind: 'list' | 'watch'): number {
    return this.requests.filter(
      (one) => one.method === 'GET' && one.path === path && one.query.has('watch') === (kind === 'watch'),
    ).length;
  }

  put(path: string, object: PutObject): StoredObject {
    const { objects } = this.#of(path);
    const key = `${object.metadata.namespace ?? ''}/${object.metadata.name}`;
    const known = objects.get(key);
    const version = ++this.#version;
    const stored = {
      ...object,
      metadata: {
        ...object.metadata,
        uid: object.metadata.uid ?? known?.metadata.uid ?? `uid-${++this.#uids}`,
        resourceVersion: String(version),
      },
    } as unknown as StoredObject;
    objects.set(key, stored);
    this.#tell(path, { type: known === undefined ? 'ADDED' : 'MODIFIED', object: stored, version });
    return stored;
  }

  remove(path: string, namespace: string, name: string): boolean {
    const { objects } = this.#of(path);
    const found = objects.get(`${namespace}/${name}`);
    if (found === undefined) return false;
    objects.delete(`${namespace}/${name}`);
    const version = ++this.#version;
    const object = { ...found, metadata: { ...found.metadata, resourceVersion: String(version) } };
    this.#tell(path, { type: 'DELETED', object, version });
    return true;
  }

  bookmark(path: string): void {
    const version = ++this.#version;
    const object = { metadata: { resourceVersion: String(version) } };
    for (const { response } of this.#of(path).watches) {
      response.write(`${JSON.stringify({ type: 'BOOKMARK', object })}\n`);
    }
  }

  /** Forgets what happened so far: a resumed watch gets 410. */
  compact(path: string): void {
    const collection = this.#of(path);
    collection.events = [];
    collection.oldest = this.#version;
  }

  /** Writes to the watches as they are. */
  raw(path: string, text: string | Uint8Array): void {
    for (const { response } of this.#of(path).watches) response.write(text);
  }

  /** Ends the watches, or cuts their connections. */
  endWatches(path: string, how: 'end' | 'cut' = 'cut'): void {
    const { watches } = this.#of(path);
    for (const { response } of watches) {
      if (how === 'end') response.end();
      else response.destroy();
    }
    watches.clear();
  }

  watching(path: string): number {
    return this.#collections.get(path)?.watches.size ?? 0;
  }

  objects(path: string): StoredObject[] {
    return [...this.#of(path).objects.values()];
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #of(path: string): Collection {
    const found = this.#collections.get(path);
    if (found === undefined) throw new Error(`the fake does not serve ${path}`);
    return found;
  }

  #tell(path: string, event: WatchEvent): void {
    const collection = this.#of(path);
    collection.events.push(event);
    for (const { response } of collection.watches) response.write(lineOf(event));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://fake');
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    const seen: SeenRequest = {
      method: request.method ?? '',
      path: url.pathname,
      query: url.searchParams,
      body: text === '' ? undefined : JSON.parse(text),
      headers: request.headers,
    };
    this.requests.push(seen);
    if (this.intercept?.(seen, response) === true) return;
    if (seen.method === 'GET' && this.#collections.has(seen.path)) this.#read(seen, response);
    else if (seen.method === 'GET' && this.#named(seen.path) !== undefined)
      send(response, 200, this.#named(seen.path));
    else if (seen.method === 'PATCH' && seen.path.endsWith('/status')) this.#patchStatus(seen, response);
    else if (/\/events(\/[^/]+)?$/.test(seen.path)) this.#event(seen, response);
    else send(response, 404, failure(404, 'NotFound'));
  }

  /** Of a collection that is served: `/api/v1/namespaces/shop/pods/web-0` of `/api/v1/namespaces/shop/pods`. */
  #named(path: string): StoredObject | undefined {
    const [, collection = '', name] = /^(.*)\/([^/]+)$/.exec(path) ?? [];
    const objects = this.#collections.get(collection)?.objects.values() ?? [];
    return [...objects].find(({ metadata }) => metadata.name === name);
  }

  #read({ path, query }: SeenRequest, response: ServerResponse): void {
    const collection = this.#of(path);
    if (query.get('watch') === 'true') {
      const from = Number(query.get('resourceVersion'));
      response.writeHead(200, { 'content-type': 'application/json' });
      response.flushHeaders();
      if (from < collection.oldest) {
        const object = failure(410, 'Expired', 'too old resource version');
        response.end(`${JSON.stringify({ type: 'ERROR', object })}\n`);
        return;
      }
      for (const event of collection.events) if (event.version > from) response.write(lineOf(event));
      const watch = { response };
      collection.watches.add(watch);
      response.on('close', () => collection.watches.delete(watch));
      return;
    }
    const [label = '', wanted] = query.get('labelSelector')?.split('=') ?? [];
    const all = [...collection.objects.values()].filter(({ metadata }) => {
      const value = (metadata['labels'] as Readonly<Record<string, string>> | undefined)?.[label];
      return label === '' || (value !== undefined && (wanted ?? value) === value);
    });
    const start = Number(query.get('continue') ?? 0);
    const limit = Number(query.get('limit') ?? all.length);
    const next = start + limit < all.length ? String(start + limit) : '';
    const metadata = { resourceVersion: String(this.#version), continue: next };
    send(response, 200, { metadata, items: all.slice(start, start + limit) });
  }

  /** Of a strategic merge patch, what conditions need. */
  #patchStatus({ path, body }: SeenRequest, response: ServerResponse): void {
    const [, prefix = '', namespace = '', plural = '', name = ''] =
      /^(.*)\/namespaces\/([^/]+)\/([^/]+)\/([^/]+)\/status$/.exec(path) ?? [];
    const collection = `${prefix}/${plural}`;
    const found = this.#collections.get(collection)?.objects.get(`${namespace}/${name}`);
    const patch = body as { metadata?: { uid?: string }; status?: { conditions?: Fields[] } };
    if (found === undefined) return send(response, 404, failure(404, 'NotFound'));
    if (patch.metadata?.uid !== undefined && patch.metadata.uid !== found.metadata.uid) {
      return send(response, 409, failure(409, 'Conflict', 'Precondition failed: UID in precondition'));
    }
    const status = (found['status'] ?? {}) as { conditions?: Fields[] };
    const conditions = new Map((status.conditions ?? []).map((one) => [one['type'], one]));
    for (const one of patch.status?.conditions ?? []) {
      conditions.set(one['type'], { ...conditions.get(one['type']), ...one });
    }
    const changed = { ...found, status: { ...status, conditions: [...conditions.values()] } };
    const same = JSON.stringify(changed) === JSON.stringify(found);
    send(response, 200, same ? found : this.put(collection, changed));
  }

  #event({ path, method, body }: SeenRequest, response: ServerResponse): void {
    const collection = '/api/v1/events';
    if (!this.#collections.has(collection)) this.serve(collection);
    const { objects } = this.#of(collection);
    const [, namespace = '', name = ''] = /\/namespaces\/([^/]+)\/events(?:\/(.+))?$/.exec(path) ?? [];
    const wanted = method === 'POST' ? (body as StoredObject).metadata.name : name;
    const found = objects.get(`${namespace}/${wanted}`);
    if (method === 'POST') {
      if (found !== undefined) return send(response, 409, failure(409, 'AlreadyExists'));
      return send(response, 201, this.put(collection, body as StoredObject));
    }
    if (found === undefined) return send(response, 404, failure(404, 'NotFound'));
    if (method === 'GET') return send(response, 200, found);
    send(response, 200, this.put(collection, { ...found, ...(body as Fields) }));
  }
}

const lineOf = ({ type, object }: WatchEvent): string => `${JSON.stringify({ type, object })}\n`;
