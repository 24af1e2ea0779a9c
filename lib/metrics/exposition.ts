// SPDX-License-Identifier: Apache-2.0
// In which form metrics are sent: Prometheus' text format, or OpenMetrics for who asks for it; compressed for who takes
// that. What the forms look like is the registry's.

import { promisify } from 'node:util';
import { gzip } from 'node:zlib';

export type Exposition = 'text' | 'openmetrics';

const CONTENT_TYPES = {
  text: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
} as const;

interface Wishes {
  readonly accept?: string | undefined;
  readonly 'accept-encoding'?: string | string[] | undefined;
}

/** OpenMetrics if it is named with a weight above 0: who knows it names the text format too, as what it takes else. */
export function expositionFor(wishes: Wishes): Exposition {
  return takes(wishes.accept, 'application/openmetrics-text') ? 'openmetrics' : 'text';
}

/** Body and header fields of an answer. */
export async function encodeExposition(
  text: string,
  exposition: Exposition,
  wishes: Wishes,
): Promise<{ readonly body: Buffer; readonly headers: Readonly<Record<string, string>> }> {
  const headers = { 'content-type': CONTENT_TYPES[exposition], vary: 'accept, accept-encoding' };
  const encoding = wishes['accept-encoding'];
  if (!takes(Array.isArray(encoding) ? encoding.join() : encoding, 'gzip')) {
    return { body: Buffer.from(text), headers };
  }
  return {
    body: await promisify(gzip)(text, { level: 1 }),
    headers: { ...headers, 'content-encoding': 'gzip' },
  };
}

function takes(list: string | undefined, name: string): boolean {
  return (list ?? '').split(',').some((item) => {
    const [value = '', ...parameters] = item.split(';').map((part) => part.trim().toLowerCase());
    return value === name && !parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter));
  });
}
