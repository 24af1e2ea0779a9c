// SPDX-License-Identifier: Apache-2.0
// Reads manifests: YAML text to checked objects, or one error that names file, document, field and remedy for
// each mistake. Reads all before it complains; applies nothing.

import * as v from 'valibot';
import { parseAllDocuments } from 'yaml';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { unknownFields } from '#lib/registry-folder/known-fields.ts';
import { type FieldProblem, kindOf, parseResource } from '#lib/registry/resource-schema.ts';
import { type Manifest, type ManifestKind, manifestSchemas } from './manifest-schema.ts';

export interface ManifestSource {
  /** A path, for messages. */
  readonly file: string;
  readonly text: string;
}

/** An object with the file and document that it comes from, for messages. */
export interface PlacedManifest {
  readonly where: string;
  readonly manifest: Manifest;
}

const KIND_NAMES = Object.keys(manifestSchemas).join(', ');
const PROBLEMS_MAX = 10;

const isManifestKind = (kind: unknown): kind is ManifestKind =>
  typeof kind === 'string' && Object.hasOwn(manifestSchemas, kind);

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function explain(issue: v.BaseIssue<unknown>): string {
  const path = v.getDotPath(issue) ?? '';
  const field = path === '' ? 'the document' : path;
  if (issue.type === 'strict_object' && issue.expected === 'never') {
    return `${field}: unknown field; remove it or correct its spelling`;
  }
  if (issue.received === 'undefined') return `${field}: missing; add it (${issue.expected ?? 'required'})`;
  if (issue.expected === 'string' && issue.kind === 'schema') {
    return `${field}: expected text but found ${issue.received}; put it in quotes`;
  }
  if (issue.type === 'union' && issue.issues?.[0] !== undefined) return explain(issue.issues[0]);
  if (issue.expected !== null && issue.kind === 'schema') {
    return `${field}: expected ${issue.expected} but found ${issue.received}`;
  }
  return `${field}: ${issue.message}`;
}

/** As destination will read it; fields that nobody knows are mistakes here. */
function routeProblems(value: Record<string, unknown>): readonly FieldProblem[] {
  const kind = String(value['kind']);
  const known = kindOf(String(value['apiVersion']), kind);
  const parsed = known === undefined ? undefined : parseResource(known, value, 'local');
  return [...(parsed?.ok === false ? parsed.problems : []), ...unknownFields(kind, value)];
}

function parseDocument(value: unknown, where: string, problems: string[]): Manifest | undefined {
  if (!isObject(value)) {
    problems.push(`${where}: not an object; expected apiVersion, kind and metadata`);
    return undefined;
  }
  const { kind } = value;
  if (!isManifestKind(kind)) {
    problems.push(
      kind === undefined
        ? `${where}, kind: missing; a local mesh takes ${KIND_NAMES}`
        : `${where}, kind: unknown kind ${JSON.stringify(kind)}; a local mesh takes ${KIND_NAMES}`,
    );
    return undefined;
  }
  const { name } = isObject(value['metadata']) ? value['metadata'] : {};
  const named = `${where} (${kind} ${typeof name === 'string' ? name : 'without a name'})`;
  const result = v.safeParse(manifestSchemas[kind], value);
  if (result.success) {
    const before = problems.length;
    if (kind === 'HTTPRoute' || kind === 'GRPCRoute') {
      for (const { path, message } of routeProblems(value)) problems.push(`${named}, ${path}: ${message}`);
    }
    return problems.length === before ? result.output : undefined;
  }
  for (const issue of result.issues) problems.push(`${named}, ${explain(issue)}`);
  return undefined;
}

/** All objects of all files in order. Throws MESH_MANIFEST_INVALID with every mistake found. */
export function parseManifests(sources: readonly ManifestSource[]): PlacedManifest[] {
  const problems: string[] = [];
  const manifests: PlacedManifest[] = [];
  for (const source of sources) {
    const documents = parseAllDocuments(source.text, { prettyErrors: true });
    if (!Array.isArray(documents)) continue; // an empty file
    for (const [index, document] of documents.entries()) {
      const where = `${source.file}, document ${index + 1}`;
      const notYaml = (error: unknown): void => {
        problems.push(`${where}: not YAML: ${errorMessage(error).split('\n')[0]}; correct the syntax`);
      };
      if (document.errors.length > 0) {
        document.errors.forEach(notYaml);
        continue;
      }
      let value: unknown;
      try {
        value = document.toJS();
      } catch (error) {
        // Aliases are only followed here: to nothing, or without end.
        notYaml(error);
        continue;
      }
      if (value === null || value === undefined) continue;
      const manifest = parseDocument(value, where, problems);
      if (manifest !== undefined) manifests.push({ where, manifest });
    }
  }
  if (problems.length > 0) {
    const shown = problems.slice(0, PROBLEMS_MAX);
    if (problems.length > shown.length) shown.push(`and ${problems.length - shown.length} more`);
    throw new MeshError('MESH_MANIFEST_INVALID', shown.join('\n'));
  }
  return manifests;
}
