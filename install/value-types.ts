// SPDX-License-Identifier: Apache-2.0
// What a value of the installation may be: one description each, used by `mesh install` (valibot) and by Helm (JSON
// schema). Helm's form may be wider where a pattern cannot say it.

import * as v from 'valibot';
import { parseNetwork, parsePorts } from '#lib/core/addresses.ts';
import { asDurationMs } from '#lib/core/config.ts';

export interface ValueType {
  readonly kind: 'text' | 'integer' | 'flag' | 'map' | 'list';
  readonly schema: v.GenericSchema;
  readonly json: Readonly<Record<string, unknown>>;
}

const expectText = (what: string) => v.string(`expected ${what} as text (quote numbers and true/false)`);

function pattern(regex: RegExp, what: string): ValueType {
  return {
    kind: 'text',
    schema: v.pipe(expectText(what), v.regex(regex, `expected ${what}`)),
    json: { type: 'string', pattern: regex.source },
  };
}

/** Text that a function can read. */
function readable(what: string, good: (text: string) => boolean): ValueType {
  return {
    kind: 'text',
    schema: v.pipe(expectText(what), v.check(good, `expected ${what}`)),
    json: { type: 'string' },
  };
}

const label = '[a-z0-9]([-a-z0-9]*[a-z0-9])?';

export const anyText: ValueType = { kind: 'text', schema: expectText('text'), json: { type: 'string' } };
export const dnsLabel = pattern(new RegExp(`^${label}$`), 'a name of lower-case letters, digits and "-"');
export const domain = pattern(
  new RegExp(`^${label}(\\.${label})*$`),
  'a domain of lower-case letters, digits, "-" and "."',
);
export const domainOrEmpty = pattern(
  new RegExp(`^(${label}(\\.${label})*)?$`),
  'a domain of lower-case letters, digits, "-" and ".", or nothing',
);
export const image = pattern(
  /^[a-z0-9][a-z0-9._:/-]*$/,
  'the name of an image, without its tag, such as nodemesh/controller',
);
export const imageHost = pattern(
  /^([a-z0-9][A-Za-z0-9._:/-]*[A-Za-z0-9])?$/,
  'a host and path before the images, such as registry.example.com/mirror',
);
export const tag = pattern(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/, 'the tag of an image');
export const quantity = pattern(
  /^([0-9]+(\.[0-9]+)?([munkMGTPE]|[KMGTPE]i)?)?$/,
  'a quantity of Kubernetes such as 100m or 250Mi, or nothing',
);
export const taintKey = pattern(
  /^([a-z0-9.-]+\/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/,
  'the key of a taint',
);
export const url = pattern(/^(https?:\/\/\S+)?$/, 'a URL that begins with http:// or https://, or nothing');
export const serverAddress = pattern(
  /^(([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5})?$/,
  'name:port, ip:port or [ipv6]:port, or nothing',
);
export const pem = pattern(
  /^(\s*-----BEGIN [A-Z0-9 ]+-----[\s\S]+-----END [A-Z0-9 ]+-----\s*)?$/,
  'PEM, which begins with "-----BEGIN"',
);

export const folder = pattern(/^(\/[A-Za-z0-9._-]+)+$/, 'an absolute path such as /etc/cni/net.d');

export const goDuration = readable('a duration such as 24h0m0s, 90m or 500ms', (text) => {
  try {
    return asDurationMs(text) > 0;
  } catch {
    return false;
  }
});
export const names = readable('names of namespaces separated by commas, or nothing', (text) =>
  /^([a-z0-9-]+(,[a-z0-9-]+)*)?$/.test(text),
);
export const ports = readable('ports or ranges such as 25,587,4000-4010', (text) => {
  let good = true;
  parsePorts(text, undefined, () => (good = false));
  return good;
});
export const networks = readable('CIDRs separated by commas, such as 10.0.0.0/8,fd00::/8', (text) =>
  text.split(',').every((item) => item.includes('/') && parseNetwork(item.trim()) !== undefined),
);

export const flag: ValueType = {
  kind: 'flag',
  schema: v.boolean('expected true or false (without quotes)'),
  json: { type: 'boolean' },
};

export function integer(minimum: number, maximum: number): ValueType {
  const what = `expected a whole number from ${minimum} to ${maximum}`;
  return {
    kind: 'integer',
    schema: v.pipe(v.number(what), v.integer(what), v.minValue(minimum, what), v.maxValue(maximum, what)),
    json: { type: 'integer', minimum, maximum },
  };
}

export function choice(...allowed: readonly string[]): ValueType {
  return {
    kind: 'text',
    schema: v.picklist(allowed, `expected one of ${allowed.join(', ')}`),
    json: { type: 'string', enum: allowed },
  };
}

/** What goes into an object as it is: Kubernetes checks it. */
export const freeMap: ValueType = {
  kind: 'map',
  schema: v.record(v.string(), v.unknown(), 'expected a map'),
  json: { type: 'object' },
};
export const textMap: ValueType = {
  kind: 'map',
  schema: v.record(
    v.string(),
    v.string('expected text (quote numbers and true/false)'),
    'expected a map of texts',
  ),
  json: { type: 'object', additionalProperties: { type: 'string' } },
};
export const freeList: ValueType = {
  kind: 'list',
  schema: v.array(v.record(v.string(), v.unknown(), 'expected a map'), 'expected a list'),
  json: { type: 'array', items: { type: 'object' } },
};
