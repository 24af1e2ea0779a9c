// SPDX-License-Identifier: Apache-2.0
// The spec and status of an ExternalWorkload, in both of its versions: the older one writes `meshTls`.

import * as v from 'valibot';
import { listOf, portNumber } from './schema-parts.ts';

const text = v.string('expected text');
const required = v.pipe(text, v.minLength(1, 'is empty'), v.maxLength(253, 'longer than 253 characters'));

const meshTls = v.object(
  { identity: required, serverName: required },
  'expected an identity and a serverName',
);

export const externalWorkloadSpec = v.pipe(
  v.looseObject(
    {
      meshTLS: v.nullish(meshTls),
      meshTls: v.nullish(meshTls),
      ports: listOf(
        v.object({ name: v.nullish(text, ''), port: portNumber, protocol: v.nullish(text, 'TCP') }),
      ),
      workloadIPs: listOf(v.object({ ip: text })),
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
    conditions: listOf(v.looseObject({ type: text, status: text })),
  }),
);

/** Only what somebody says to be ready takes traffic. */
export const readyOf = (status: v.InferOutput<typeof externalWorkloadStatus>): boolean =>
  status?.conditions.some((one) => one.type === 'Ready' && one.status === 'True') ?? false;
