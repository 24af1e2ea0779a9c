// SPDX-License-Identifier: Apache-2.0
// Prometheus' HTTP API for tests: it computes nothing. A test says which values stand for the queries that it names.

import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export type FakeSample = readonly [labels: Readonly<Record<string, string>>, value: number | string];

export class FakePrometheus {
  /** Of a query that none of these matches there are no values. */
  readonly answers: { readonly query: RegExp; readonly samples: readonly FakeSample[] }[] = [];
  readonly queries: string[] = [];
  readonly authorizations: (string | undefined)[] = [];
  scrapeInterval = '10s';
  /** In place of every answer. */
  failure: { readonly status: number; readonly body: string } | undefined;
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      this.authorizations.push(request.headers.authorization);
      const { status, body } = this.answer(new URL(request.url ?? '/', 'http://fake'));
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(body);
    });
  }

  static async start(): Promise<FakePrometheus> {
    const fake = new FakePrometheus();
    await new Promise<void>((resolve) => fake.#server.listen(0, '127.0.0.1', resolve));
    return fake;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  on(query: RegExp, ...samples: readonly FakeSample[]): void {
    this.answers.push({ query, samples });
  }

  answer({ pathname, searchParams }: URL): { readonly status: number; readonly body: string } {
    if (this.failure !== undefined) return this.failure;
    if (pathname.endsWith('/api/v1/status/config')) {
      return success({ yaml: `global:\n  scrape_interval: ${this.scrapeInterval}\n` });
    }
    if (!pathname.endsWith('/api/v1/query')) return { status: 404, body: 'page not found' };
    const query = searchParams.get('query') ?? '';
    this.queries.push(query);
    const samples = this.answers.filter((one) => one.query.test(query)).flatMap((one) => one.samples);
    return success({
      resultType: 'vector',
      result: samples.map(([metric, value]) => ({ metric, value: [1_700_000_000, String(value)] })),
    });
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

const success = (data: unknown): { readonly status: number; readonly body: string } => ({
  status: 200,
  body: JSON.stringify({ status: 'success', data }),
});
