// SPDX-License-Identifier: Apache-2.0
// Where a server is reached that is listed with several addresses, as a resolver for grpc-js, which dials what it is
// given in turn. Addresses need no DNS, so they are given at once; listed names are looked up when grpc-js asks again,
// after nothing could be dialled. The dialling itself and its pauses are grpc-js's.

import { lookup as lookUpName } from 'node:dns/promises';
import { isIP } from 'node:net';
import { type ChannelOptions, experimental, Metadata, status } from '@grpc/grpc-js';
import { formatSocketAddress } from '#lib/core/addresses.ts';
import { type Clock, systemClock, type Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';

const SCHEME = 'nodemesh';
/** Between two lookups: a thousand agents that lost the same server must not ask DNS with each dial. */
const LOOKUP_PAUSE_MS = 5000;

interface SocketAddress {
  readonly host: string;
  readonly port: number;
}

interface Listed extends SocketAddress {
  readonly text: string;
  readonly isName: boolean;
}

export interface Dial {
  /** As listed; behind a name is what it was looked up to be. */
  readonly address: string;
  /** What is dialled after it, as listed; the first one comes after the last. */
  readonly next: string;
}

/** Of a channel to the server at `addresses`: `ip:port` or `name:port`, or several with commas between. */
export function targetOf(addresses: string): string {
  return `${SCHEME}:${addresses}`;
}

export function firstOf(addresses: string): string {
  return addresses.split(',', 1)[0] ?? addresses;
}

/** How a dial to `host` and `port` is told of, for a server at `addresses`. */
export function dialOf(addresses: string, host: string, port: number): Dial {
  const listed = parse(addresses);
  const byAddress = listed.findIndex((one) => one.host === host && one.port === port);
  const index = byAddress < 0 ? listed.findIndex((one) => one.isName && one.port === port) : byAddress;
  const name = listed[index]?.isName === true ? listed[index].text : undefined;
  const dialled = formatSocketAddress(host, port);
  const next = listed[(index + 1) % listed.length]?.text ?? dialled;
  return { address: name === undefined ? dialled : `${name} (${dialled})`, next };
}

function parse(addresses: string): Listed[] {
  return addresses.split(',').map((text) => {
    const parts = experimental.splitHostPort(text);
    const host = parts?.host ?? text;
    return { text, host, port: parts?.port ?? 443, isName: isIP(host) === 0 };
  });
}

export interface AddressesOptions {
  /** Everything that a name is. */
  readonly lookup: (name: string) => Promise<readonly string[]>;
  readonly clock: Clock;
}

type Listener = (found: readonly SocketAddress[], failures: string) => void;

/** One channel's. */
export class ServerAddresses {
  readonly #listed: readonly Listed[];
  readonly #listener: Listener;
  readonly #options: AddressesOptions;
  /** The latest that is known of each name. */
  readonly #known = new Map<string, readonly string[]>();
  #told = false;
  #running = false;
  #lookedUpAtMs = -Infinity;
  #timer: Timer | undefined;
  #generation = 0;

  constructor(addresses: string, listener: Listener, options: AddressesOptions) {
    this.#listed = parse(addresses);
    this.#listener = listener;
    this.#options = options;
  }

  /** What is known is not enough. */
  update(): void {
    const first = !this.#told;
    this.#told = true;
    if (first && this.#listed.some(({ isName }) => !isName)) {
      const generation = this.#generation;
      // Not before who asked has returned.
      setImmediate(() => {
        if (generation === this.#generation) this.#listener(this.#all(), '');
      });
    } else if (this.#listed.some(({ isName }) => isName)) this.#lookUpSoon();
  }

  /** Until the next update. */
  stop(): void {
    this.#generation++;
    this.#told = false;
    this.#running = false;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #lookUpSoon(): void {
    if (this.#running || this.#timer !== undefined) return;
    const { clock } = this.#options;
    const dueMs = this.#lookedUpAtMs + LOOKUP_PAUSE_MS - clock.nowMs();
    if (dueMs <= 0) void this.#lookUp();
    else
      this.#timer = clock.after(dueMs, () => {
        this.#timer = undefined;
        void this.#lookUp();
      });
  }

  async #lookUp(): Promise<void> {
    const generation = this.#generation;
    const failures: string[] = [];
    this.#running = true;
    await Promise.all(
      this.#listed.map(async ({ host, isName }) => {
        if (!isName) return;
        try {
          this.#known.set(host, await this.#options.lookup(host));
        } catch (error) {
          failures.push(`${host} cannot be looked up: ${errorMessage(error)}`);
        }
      }),
    );
    this.#lookedUpAtMs = this.#options.clock.nowMs();
    if (generation !== this.#generation) return;
    this.#running = false;
    this.#listener(this.#all(), failures.join(', '));
  }

  /** In the order of the list, each once. */
  #all(): SocketAddress[] {
    const found = new Map<string, SocketAddress>();
    for (const { host, port, isName } of this.#listed) {
      for (const ip of isName ? (this.#known.get(host) ?? []) : [host]) {
        const text = formatSocketAddress(ip, port);
        if (!found.has(text)) found.set(text, { host: ip, port });
      }
    }
    return [...found.values()];
  }
}

const system: AddressesOptions = {
  lookup: async (name) => (await lookUpName(name, { all: true })).map(({ address }) => address),
  clock: systemClock,
};

class Resolver implements experimental.Resolver {
  readonly #addresses: ServerAddresses;

  constructor(
    target: experimental.GrpcUri,
    listener: experimental.ResolverListener,
    _options: ChannelOptions,
  ) {
    this.#addresses = new ServerAddresses(
      target.path,
      (found, failures) =>
        void listener(
          found.length > 0
            ? experimental.statusOrFromValue(found.map((one) => ({ addresses: [one] })))
            : experimental.statusOrFromError({
                code: status.UNAVAILABLE,
                details: failures,
                metadata: new Metadata(),
              }),
          {},
          null,
          failures,
        ),
      system,
    );
  }

  updateResolution(): void {
    this.#addresses.update();
  }

  destroy(): void {
    this.#addresses.stop();
  }

  /** The server proves its identity by another name: `grpc.default_authority`. */
  static getDefaultAuthority(target: experimental.GrpcUri): string {
    return firstOf(target.path);
  }
}

experimental.registerResolver(SCHEME, Resolver);
