// SPDX-License-Identifier: Apache-2.0
// AdmissionReview in, AdmissionReview out.

import * as v from 'valibot';
import { judge } from './judge.ts';

const object = v.nullish(
  v.looseObject({
    metadata: v.optional(
      v.looseObject({ name: v.optional(v.string()), deletionTimestamp: v.optional(v.string()) }),
    ),
    spec: v.optional(v.unknown()),
  }),
);

const review = v.looseObject({
  request: v.looseObject({
    uid: v.string(),
    kind: v.looseObject({ group: v.string(), kind: v.string() }),
    namespace: v.optional(v.string(), ''),
    name: v.optional(v.string(), ''),
    object,
    oldObject: object,
  }),
});

export interface Answer {
  readonly kind: string;
  readonly allowed: boolean;
  readonly body: object;
}

const WARNING_LENGTH_MAX = 250;
const MESSAGE_LENGTH_MAX = 4096;

/** undefined: what came is no AdmissionReview. */
export function answerReview(body: unknown): Answer | undefined {
  const parsed = v.safeParse(review, body);
  if (!parsed.success) return undefined;
  const { uid, kind, namespace, name, object: given, oldObject } = parsed.output.request;
  const deleted = given?.metadata?.deletionTimestamp !== undefined;
  const { problems, warnings } = deleted
    ? { problems: [], warnings: [] }
    : judge({
        group: kind.group,
        kind: kind.kind,
        namespace,
        spec: given?.spec,
        oldSpec: oldObject?.spec,
      });
  const allowed = problems.length === 0;
  const title = `${kind.kind} ${namespace}/${given?.metadata?.name ?? name}`;
  const response = {
    uid,
    allowed,
    ...(allowed
      ? {}
      : { status: { code: 400, message: `${title}: ${problems.join('; ')}`.slice(0, MESSAGE_LENGTH_MAX) } }),
    ...(warnings.length === 0 ? {} : { warnings: warnings.map((one) => one.slice(0, WARNING_LENGTH_MAX)) }),
  };
  return {
    kind: kind.kind,
    allowed,
    body: { apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', response },
  };
}
