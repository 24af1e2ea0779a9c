// SPDX-License-Identifier: Apache-2.0
// Reads YAML or JSON text with Kubernetes objects: several documents, Lists. Every problem names file, document,
// object and field. The folder registry and `mesh local apply` use the same reader; apply is strict.

import { parseAllDocuments } from 'yaml';
import { MeshError, errorMessage } from '#lib/core/errors.ts';
import type { AnyResource } from '#lib/registry/model.ts';
import { apiVersions, kindOf, parseResource } from '#lib/registry/resource-schema.ts';
import { flattenStrings } from './flat-strings.ts';
import { unknownFields } from './known-fields.ts';

export interface Manifest {
  /** The object as written, for what the model leaves out (a container's command). */
  readonly raw: Readonly<Record<string, unknown>>;
  readonly resource: AnyResource;
  /** `shop.yaml, document 2` */
  readonly source: string;
}

export interface Manifests {
  readonly manifests: readonly Manifest[];
  /** What cannot be used; each text says where, what, and what to do. */
  readonly problems: readonly string[];
  /** What is left out on purpose, for instance kinds that the mesh does not read. */
  readonly warnings: readonly string[];
}

export interface ManifestOptions {
  readonly cluster: string;
  /** Unknown kinds and fields are problems, not warnings: for what a person applies. */
  readonly strict?: boolean;
}

const TEXT_BYTES_MAX = 8 * 1024 * 1024;
const OBJECTS_MAX = 20_000;

/** Never throws for what the text holds: problems are part of the answer. `source` is a file name for messages. */
export function parseManifests(text: string, source: string, options: ManifestOptions): Manifests {
  const reader = new Reader(options);
  reader.read(text, source);
  return reader;
}

/** The manifests, or one error (MESH_MANIFEST_INVALID) that names every problem. */
export function requireManifests(
  text: string,
  source: string,
  options: ManifestOptions,
): readonly Manifest[] {
  const { manifests, problems } = parseManifests(text, source, { strict: true, ...options });
  if (problems.length > 0) throw new MeshError('MESH_MANIFEST_INVALID', problems.join('\n'));
  return manifests;
}

class Reader implements Manifests {
  readonly manifests: Manifest[] = [];
  readonly problems: string[] = [];
  readonly warnings: string[] = [];
  readonly #options: ManifestOptions;
  readonly #seen = new Set<string>();

  constructor(options: ManifestOptions) {
    this.#options = options;
  }

  read(text: string, source: string): void {
    if (text.length > TEXT_BYTES_MAX) {
      this.problems.push(`${source}: larger than ${TEXT_BYTES_MAX} bytes; split it into several files`);
      return;
    }
    const documents = parseAllDocuments(text, { merge: true, prettyErrors: true, logLevel: 'silent' });
    if ('empty' in documents) return;
    for (const [index, document] of documents.entries()) {
      const where = documents.length === 1 ? source : `${source}, document ${index + 1}`;
      const broken = document.errors[0];
      if (broken !== undefined) {
        const message = broken.message.split('\n')[0]?.replace(/:$/, '') ?? broken.code;
        this.problems.push(`${where}: not YAML: ${message}; correct the text at that place`);
        continue;
      }
      let raw: unknown;
      try {
        raw = document.toJS({ maxAliasCount: 100 });
      } catch (error) {
        this.problems.push(`${where}: not usable YAML: ${errorMessage(error)}; write aliases out`);
        continue;
      }
      flattenStrings(raw);
      if (raw !== null && raw !== undefined) this.#object(raw, where);
    }
  }

  #object(raw: unknown, where: string): void {
    if (!isRecord(raw)) {
      this.problems.push(
        `${where}: holds ${describe(raw)}, not a Kubernetes object; write apiVersion, kind and metadata`,
      );
      return;
    }
    const { kind, apiVersion } = raw;
    if (typeof kind !== 'string' || kind === '' || typeof apiVersion !== 'string' || apiVersion === '') {
      this.problems.push(`${where}: apiVersion or kind is missing; each object starts with both`);
      return;
    }
    if (kind.endsWith('List') && Array.isArray(raw['items'])) {
      for (const [index, item] of raw['items'].entries()) this.#object(item, `${where}, item ${index + 1}`);
      return;
    }
    const versions = Object.hasOwn(apiVersions, kind) ? apiVersions[kind] : undefined;
    if (versions === undefined) {
      const message = `${where}: kind ${kind} (${apiVersion}) is not read here`;
      if (this.#options.strict === true) {
        this.problems.push(`${message}; known kinds: ${Object.keys(apiVersions).join(', ')}`);
      } else this.warnings.push(message);
      return;
    }
    const known = kindOf(apiVersion, kind);
    if (known === undefined) {
      this.problems.push(`${where}: ${kind} has apiVersion ${apiVersion}; write ${versions.join(' or ')}`);
      return;
    }
    this.#known(known, raw, where);
  }

  #known(kind: AnyResource['kind'], raw: Readonly<Record<string, unknown>>, where: string): void {
    const object = `${where} (${String(raw['kind'])} ${nameOf(raw)})`;
    const unknown = this.#options.strict === true ? unknownFields(String(raw['kind']), raw) : [];
    const result = parseResource(kind, raw, this.#options.cluster);
    for (const { path, message } of [...(result.ok ? [] : result.problems), ...unknown]) {
      this.problems.push(`${object}: ${path === '' ? '' : `${path} `}${message}`);
    }
    if (!result.ok || unknown.length > 0) return;
    const { namespace, name } = result.resource.metadata;
    const key = `${kind}/${namespace}/${name}`;
    if (this.#seen.has(key)) {
      this.problems.push(`${object}: stands twice in this file; remove one of them`);
      return;
    }
    if (this.manifests.length >= OBJECTS_MAX) {
      this.problems.push(`${object}: more than ${OBJECTS_MAX} objects in one file; split it`);
      return;
    }
    this.#seen.add(key);
    this.manifests.push({ raw, resource: result.resource, source: where });
  }
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function nameOf(raw: Readonly<Record<string, unknown>>): string {
  const metadata = raw['metadata'];
  if (!isRecord(metadata) || typeof metadata['name'] !== 'string') return 'without a name';
  return typeof metadata['namespace'] === 'string'
    ? `${metadata['namespace']}/${metadata['name']}`
    : metadata['name'];
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  return `a ${typeof value}`;
}
