// SPDX-License-Identifier: Apache-2.0
// Which rule of a service's routes a request falls under, as Linkerd decides it: the more specific host wins, then the
// longer match of the path, then more fields, more query parameters, a method, and at last who comes first. Paths,
// hosts and the values of fields are looked up, so that a thousand rules cost about what one costs; only expressions
// whose literal beginning fits are tried one after the other, each once. No sockets, no filters.
//
//   host: exact ─► longest suffix ─► … ─► none      in each: exact path, longest prefix, … ; first hit wins

import { linearRegExp } from '#lib/regexp/linear-regexp.ts';
import type { ClientRoutes, GrpcRouteMatch, HostMatch, HttpRouteMatch, ValueMatch } from '../model.ts';
import type { RoutedRequest } from './routed-request.ts';

export interface RouteHit<T> {
  readonly rule: T;
  /** How much of the path a prefix matched; -1: none did, but something else. */
  readonly prefixLength: number;
}

/** Undefined: no rule matches. */
export type RouteIndex<T> = (request: RoutedRequest) => RouteHit<T> | undefined;

/** `rules` in the order of the routes and their rules. Throws an Error where an expression cannot be used. */
export function createRouteIndex<T>(
  routes: Pick<ClientRoutes, 'protocol' | 'routes'>,
  ruleOf: (route: number, rule: number) => T,
): RouteIndex<T> {
  const hosts = new HostGroups<Rules<T>>(() =>
    routes.protocol === 'grpc' ? new GrpcRules() : new HttpRules(),
  );
  let order = 0;
  for (const [routeAt, route] of routes.routes.entries()) {
    const groups = hosts.groupsOf(route.hosts);
    for (const [ruleAt, rule] of route.rules.entries()) {
      for (const match of rule.matches.length === 0 ? [{ fields: [], parameters: [] }] : rule.matches) {
        order++;
        for (const group of groups) group.add(match, ruleOf(routeAt, ruleAt), order);
      }
    }
  }
  for (const group of hosts.all) group.finish();
  return (request) => hosts.first(request.host, (group) => group.find(request));
}

type AnyMatch = HttpRouteMatch | GrpcRouteMatch;

interface Rules<T> {
  add(match: AnyMatch, rule: T, order: number): void;
  finish(): void;
  find(request: RoutedRequest): Entry<T> | undefined;
}

/** Sets of rules by the hosts that they are for. */
class HostGroups<G> {
  readonly all: G[] = [];
  readonly #make: () => G;
  readonly #exact = new Map<string, G>();
  /** By `.example.com`. */
  readonly #suffixes = new LongestFirst<G>();
  #any: G | undefined;

  constructor(make: () => G) {
    this.#make = make;
  }

  groupsOf(hosts: readonly HostMatch[]): Set<G> {
    if (hosts.length === 0) return new Set([(this.#any ??= this.#made())]);
    return new Set(
      hosts.map(({ kind, value }) => {
        const host = normalHost(value);
        return kind === 'exact'
          ? getOr(this.#exact, host, () => this.#made())
          : this.#suffixes.getOr(`.${host}`, () => this.#made());
      }),
    );
  }

  first<R>(host: string, find: (group: G) => R | undefined): R | undefined {
    if (this.#exact.size > 0 || this.#suffixes.size > 0) {
      const name = normalHost(host);
      const exact = this.#exact.get(name);
      const found =
        (exact && find(exact)) ??
        this.#suffixes.firstOf(
          (length) => (length < name.length ? name.slice(name.length - length) : undefined),
          find,
        );
      if (found !== undefined) return found;
    }
    return this.#any && find(this.#any);
  }

  #made(): G {
    const group = this.#make();
    this.all.push(group);
    return group;
  }
}

/** Lower case, without port and trailing dot. */
function normalHost(host: string): string {
  const bare = host.startsWith('[') ? host.replace(/\]:\d*$/, ']') : host.replace(/:\d*$/, '');
  return (bare.endsWith('.') ? bare.slice(0, -1) : bare).toLowerCase();
}

/** Values by text, looked up by length, the longest first. */
class LongestFirst<V> {
  readonly #values = new Map<string, V>();
  #lengths: readonly number[] = [];

  get size(): number {
    return this.#values.size;
  }

  get values(): Iterable<V> {
    return this.#values.values();
  }

  getOr(key: string, make: () => V): V {
    return getOr(this.#values, key, () => {
      this.#lengths = [...new Set([...this.#lengths, key.length])].sort((a, b) => b - a);
      return make();
    });
  }

  /** `part`: what of the text could be a key of that length. */
  firstOf<R>(part: (length: number) => string | undefined, find: (value: V) => R | undefined): R | undefined {
    for (const length of this.#lengths) {
      const key = part(length);
      const value = key === undefined ? undefined : this.#values.get(key);
      const found = value === undefined ? undefined : find(value);
      if (found !== undefined) return found;
    }
    return undefined;
  }
}

class HttpRules<T> implements Rules<T> {
  readonly #exact = new Map<string, Bucket<T>>();
  /** Without the slashes at their end: the root is ''. */
  readonly #prefixes = new LongestFirst<Bucket<T>>();
  readonly #expressions = new Map<string, Expression<T>>();

  add(match: AnyMatch, rule: T, order: number): void {
    const { path, method } = match as HttpRouteMatch;
    const make = (): Bucket<T> => new Bucket();
    let bucket: Bucket<T>;
    let prefixLength = -1;
    if (path?.kind === 'exact') bucket = getOr(this.#exact, path.value, make);
    else if (path?.kind === 'regex') {
      const { value } = path;
      bucket = getOr(this.#expressions, value, () => ({
        begins: literalBeginning(value),
        test: linearRegExp(value),
        bucket: make(),
      })).bucket;
    } else {
      const prefix = (path?.value ?? '/').replace(/\/+$/, '');
      prefixLength = prefix.length;
      bucket = this.#prefixes.getOr(prefix, make);
    }
    bucket.add(new Entry(match, rule, order, { method, prefixLength }));
  }

  finish(): void {
    for (const bucket of this.#exact.values()) bucket.finish();
    for (const bucket of this.#prefixes.values) bucket.finish();
    for (const { bucket } of this.#expressions.values()) bucket.finish();
  }

  find(request: RoutedRequest): Entry<T> | undefined {
    const { path } = request;
    // Of all that match the whole path none is longer than another; `/` as a prefix is as long as the path `/`.
    let whole = better(this.#exact.get(path)?.find(request), undefined);
    for (const { begins, test, bucket } of this.#expressions.values()) {
      if (path.startsWith(begins) && bucket.couldBeat(whole) && test.test(path))
        whole = better(whole, bucket.find(request));
    }
    const tie = path === '/' ? 0 : path.length;
    const prefixed = this.#prefixes.firstOf(
      (length) => {
        if (whole !== undefined && length < tie) return undefined;
        if (length === 0) return '';
        const fits = length === path.length || (length < path.length && path[length] === '/');
        return fits ? path.slice(0, length) : undefined;
      },
      (bucket) => bucket.find(request),
    );
    return better(whole, prefixed);
  }
}

interface Expression<T> {
  /** What every match begins with: most expressions need not be run to know that they do not match. */
  readonly begins: string;
  readonly test: RegExp;
  readonly bucket: Bucket<T>;
}

function literalBeginning(pattern: string): string {
  if (pattern.includes('|')) return '';
  const [literal = ''] = /^[^\\.[\](){}*+?^$]*/.exec(pattern) ?? [];
  // The last one may be there any number of times.
  return /^[*+?{]/.test(pattern.slice(literal.length)) ? literal.slice(0, -1) : literal;
}

/** `/service/method` of a POST. */
class GrpcRules<T> implements Rules<T> {
  readonly #buckets = new Map<string, Bucket<T>>();

  add(match: AnyMatch, rule: T, order: number): void {
    const { service, method } = match as GrpcRouteMatch;
    const bucket = getOr(this.#buckets, `${service ?? ''}/${method ?? ''}`, () => new Bucket<T>());
    bucket.add(new Entry(match, rule, order, { method: undefined, prefixLength: -1 }));
  }

  finish(): void {
    for (const bucket of this.#buckets.values()) bucket.finish();
  }

  find(request: RoutedRequest): Entry<T> | undefined {
    const { path } = request;
    const slash = path.indexOf('/', 1);
    const wellFormed = path.startsWith('/') && slash > 1 && slash < path.length - 1;
    if (request.method !== 'POST' || !wellFormed || path.indexOf('/', slash + 1) >= 0) return undefined;
    const service = path.slice(1, slash);
    const method = path.slice(slash + 1);
    for (const key of [`${service}/${method}`, `${service}/`, `/${method}`, '/']) {
      const found = this.#buckets.get(key)?.find(request);
      if (found !== undefined) return found;
    }
    return undefined;
  }
}

interface ValueTest {
  readonly name: string;
  readonly matches: (value: string) => boolean;
  /** Undefined: an expression. */
  readonly exact: string | undefined;
}

class Entry<T> implements RouteHit<T> {
  readonly rule: T;
  readonly prefixLength: number;
  readonly order: number;
  readonly fields: readonly ValueTest[];
  readonly #parameters: readonly ValueTest[];
  readonly #method: string | undefined;

  constructor(
    match: AnyMatch,
    rule: T,
    order: number,
    also: { readonly method: string | undefined; readonly prefixLength: number },
  ) {
    this.rule = rule;
    this.order = order;
    this.prefixLength = also.prefixLength;
    this.fields = match.fields.map(({ name, value }) => valueTest(name.toLowerCase(), value));
    this.#parameters = ('parameters' in match ? match.parameters : []).map(({ name, value }) =>
      valueTest(name, value),
    );
    this.#method = also.method;
  }

  matches(request: RoutedRequest): boolean {
    if (this.#method !== undefined && this.#method !== request.method) return false;
    for (const { name, matches } of this.fields) if (!request.fields(name).some(matches)) return false;
    for (const { name, matches } of this.#parameters)
      if (!request.parameters(name).some(matches)) return false;
    return true;
  }

  /** Where their paths are equally long: below zero if this one goes first. */
  compare(other: Entry<T>): number {
    return (
      other.fields.length - this.fields.length ||
      other.#parameters.length - this.#parameters.length ||
      Number(other.#method !== undefined) - Number(this.#method !== undefined) ||
      this.order - other.order
    );
  }
}

function valueTest(name: string, value: ValueMatch): ValueTest {
  if (value.kind === 'exact') {
    const exact = value.value;
    return { name, exact, matches: (text) => text === exact };
  }
  const expression = linearRegExp(value.value);
  return { name, exact: undefined, matches: (text) => expression.test(text) };
}

function better<T>(left: Entry<T> | undefined, right: Entry<T> | undefined): Entry<T> | undefined {
  if (left === undefined || right === undefined) return left ?? right;
  return left.compare(right) <= 0 ? left : right;
}

/** Entries whose paths are equally specific; those that ask for the exact value of a field are found by it. */
class Bucket<T> {
  #first: Entry<T> | undefined;
  readonly #others: Entry<T>[] = [];
  readonly #byField = new Map<string, Map<string, Entry<T>[]>>();

  add(entry: Entry<T>): void {
    if (this.#first === undefined || entry.compare(this.#first) < 0) this.#first = entry;
    const key = entry.fields.find(({ exact }) => exact !== undefined);
    if (key?.exact === undefined) this.#others.push(entry);
    else
      getOr(
        getOr(this.#byField, key.name, () => new Map<string, Entry<T>[]>()),
        key.exact,
        () => [],
      ).push(entry);
  }

  finish(): void {
    const sort = (entries: Entry<T>[]): unknown => entries.sort((a, b) => a.compare(b));
    sort(this.#others);
    for (const values of this.#byField.values()) for (const entries of values.values()) sort(entries);
  }

  couldBeat(other: Entry<T> | undefined): boolean {
    return other === undefined || (this.#first !== undefined && this.#first.compare(other) < 0);
  }

  find(request: RoutedRequest): Entry<T> | undefined {
    let best = this.#others.find((entry) => entry.matches(request));
    for (const [name, values] of this.#byField) {
      for (const value of request.fields(name)) {
        best = better(
          best,
          values.get(value)?.find((entry) => entry.matches(request)),
        );
      }
    }
    return best;
  }
}

function getOr<V>(map: Map<string, V>, key: string, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}
