// SPDX-License-Identifier: Apache-2.0
// The spec and status of an ExternalWorkload, in both of its versions: the older one writes `meshTls`.

import * as v from 'valibot';

const text = v.string('expected text');
const required = v.pipe(text, v.minLength(1, 'is empty'), v.maxLength(253, 'longer than 253 characters'));
const PORT = 'expected a port from 1 to 65535';

const meshTls = v.object(
  { identity: required, serverName: required },
  'expected an identity and a serverName',
);

export const externalWorkloadSpec = v.pipe(
  v.looseObject(
    {
      meshTLS: v.nullish(meshTls),
      meshTls: v.nullish(meshTls),
      ports: v.nullish(
        v.array(
          v.object({
            name: v.nullish(text, ''),
            port: v.pipe(v.number(PORT), v.integer(PORT), v.minValue(1, PORT), v.maxValue(65_535, PORT)),
            protocol: v.nullish(text, 'TCP'),
          }),
          'expected a list',
        ),
        [],
      ),
      workloadIPs: v.nullish(v.array(v.object({ ip: text }), 'expected a list'), []),
    },
    'expected the spec of an ExternalWorkload',
  ),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const found = dataset.value.meshTLS ?? dataset.value.meshTls;
    if (found !== null && found !== undefined) {
      const { ports, workloadIPs } = dataset.value;
      return { meshTls: found, ports, workloadIPs };
    }
    addIssue({ message: 'needs meshTLS with an identity and a serverName' });
    return NEVER;
  }),
);

export const externalWorkloadStatus = v.nullish(
  v.looseObject({
    conditions: v.nullish(v.array(v.looseObject({ type: text, status: text }), 'expected a list'), []),
  }),
);

/** Only what somebody says to be ready takes traffic. */
export const readyOf = (status: v.InferOutput<typeof externalWorkloadStatus>): boolean =>
  status?.conditions.some((one) => one.type === 'Ready' && one.status === 'True') ?? false;
