// SPDX-License-Identifier: Apache-2.0
// Prometheus' HTTP API, as much as is asked of it: the value of an expression now, and how often it scrapes. By a URL, or
// through the API server if it is a Service of the cluster.

import { parse } from 'yaml';
import { asDurationMs } from '#lib/core/config.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { ApiFailure } from '#lib/registry-kubernetes/api-failure.ts';
import type { Cluster } from '../install/cluster.ts';

export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Prometheus {
  query(expression: string): Promise<readonly Sample[]>;
  /** Undefined: it does not say. */
  scrapeIntervalMs(): Promise<number | undefined>;
}

export type PrometheusPlace =
  | { readonly kind: 'url'; readonly url: string }
  | {
      readonly kind: 'service';
      readonly namespace: string;
      /** As the API server's proxy takes it: `name:port` or `https:name:port`. */
      readonly service: string;
      /** Below which the API is, without a slash at the end. */
      readonly path: string;
    };

const TIMEOUT_MS = 30_000;

interface Answer {
  readonly status: number;
  readonly text: string;
}
type Ask = (path: string, query: Readonly<Record<string, string>>) => Promise<Answer>;

export const placeText = (place: PrometheusPlace): string =>
  place.kind === 'url' ? place.url : `service ${place.namespace}/${place.service}`;

export function connectPrometheus(place: PrometheusPlace, cluster: Cluster): Prometheus {
  const ask = place.kind === 'url' ? askUrl(place.url) : askService(place, cluster);
  const failed = (why: string, cause?: unknown): MeshError =>
    new MeshError('MESH_PROMETHEUS', `Prometheus at ${placeText(place)}: ${why}`, {
      cause,
      remedy: 'name one that answers with --prometheus-url: a URL, or namespace/service:port',
    });
  const call = async (path: string, query: Readonly<Record<string, string>> = {}): Promise<Answer> => {
    try {
      return await ask(path, query);
    } catch (error) {
      throw failed(causeOf(error), error);
    }
  };
  return {
    async query(expression) {
      const answer = await call('/api/v1/query', { query: expression });
      const body = jsonOf(answer.text);
      if (answer.status !== 200 || body?.status !== 'success')
        throw failed(body?.error ?? `the answer is ${answer.status} ${firstLine(answer.text)}`);
      const { resultType, result } = body.data as { resultType?: unknown; result?: unknown };
      if (resultType !== 'vector' || !Array.isArray(result)) throw failed('the answer is no list of values');
      return (result as readonly { metric: Sample['metric']; value: readonly [number, string] }[]).map(
        ({ metric, value }) => ({ metric, value: Number(value[1]) }),
      );
    },
    async scrapeIntervalMs() {
      const { status, text } = await call('/api/v1/status/config');
      // What only speaks its query language tells no configuration.
      if (status !== 200) return undefined;
      const yaml = (jsonOf(text)?.data as { readonly yaml?: unknown } | undefined)?.yaml;
      if (typeof yaml !== 'string') return undefined;
      const config = parse(yaml) as { readonly global?: { readonly scrape_interval?: unknown } } | null;
      const interval = config?.global?.scrape_interval;
      return typeof interval === 'string' ? asDurationMs(interval) : undefined;
    },
  };
}

function askUrl(text: string): Ask {
  const url = new URL(text);
  const headers: Record<string, string> = {};
  if (url.username !== '') {
    const login = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
    headers['authorization'] = `Basic ${Buffer.from(login).toString('base64')}`;
    url.username = '';
    url.password = '';
  }
  const base = url.href.replace(/\/+$/, '');
  return async (path, query) => {
    const text = new URLSearchParams(query).toString();
    const answer = await fetch(`${base}${path}?${text}`, {
      headers,
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    return { status: answer.status, text: await answer.text() };
  };
}

function askService(place: PrometheusPlace & { readonly kind: 'service' }, cluster: Cluster): Ask {
  const base = `/api/v1/namespaces/${place.namespace}/services/${place.service}/proxy${place.path}`;
  return async (path, query) => {
    try {
      return { status: 200, text: await cluster.text(`${base}${path}`, query) };
    } catch (error) {
      // What the API server or Prometheus said; without a status nobody did.
      if (error instanceof ApiFailure && error.status !== 0)
        return { status: error.status, text: error.message };
      throw error;
    }
  };
}

/** What fetch says itself is "fetch failed". */
const causeOf = (error: unknown): string =>
  error instanceof Error && error.cause instanceof Error ? errorMessage(error.cause) : errorMessage(error);

const firstLine = (text: string): string => (text.split('\n')[0] ?? '').slice(0, 300);

function jsonOf(
  text: string,
): { readonly status?: unknown; readonly error?: string; readonly data?: unknown } | undefined {
  try {
    const body: unknown = JSON.parse(text);
    return typeof body === 'object' && body !== null ? body : undefined;
  } catch {
    return undefined;
  }
}
