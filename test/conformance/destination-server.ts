// SPDX-License-Identifier: Apache-2.0
// A destination service that answers what a scenario says, over real gRPC on loopback.

import { Metadata, Server, ServerCredentials, type ServerWritableStream, status } from '@grpc/grpc-js';
import { socketToWire } from '#lib/proto/addresses.ts';
import {
  DestinationProfile,
  DestinationService,
  type GetDestination,
  Update,
} from '#lib/proto/gen/linkerd/destination.ts';

export type GetCall = ServerWritableStream<GetDestination, Update>;
export type ProfileCall = ServerWritableStream<GetDestination, DestinationProfile>;

export interface DestinationServer {
  readonly port: number;
  readonly gets: GetCall[];
  readonly profiles: ProfileCall[];
  /** What happens at each call from now on. */
  onGet: (call: GetCall) => void;
  onProfile: (call: ProfileCall) => void;
  /** Ends every stream, refuses new ones. */
  stop(): void;
}

export async function startDestination(port = 0): Promise<DestinationServer> {
  const server = new Server();
  const gets: GetCall[] = [];
  const profiles: ProfileCall[] = [];
  const made = {
    port: 0,
    gets,
    profiles,
    onGet: (_call: GetCall): void => undefined,
    onProfile: (_call: ProfileCall): void => undefined,
    stop: () => server.forceShutdown(),
  };
  server.addService(DestinationService, {
    get: (call: GetCall) => {
      call.on('error', () => undefined);
      gets.push(call);
      made.onGet(call);
    },
    getProfile: (call: ProfileCall) => {
      call.on('error', () => undefined);
      profiles.push(call);
      made.onProfile(call);
    },
  });
  made.port = await new Promise<number>((resolve, reject) =>
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  return made;
}

/** A service of the cluster by this name; '' for an address that is none. */
export const profileOf = (fullyQualifiedName: string, opaqueProtocol = false): DestinationProfile =>
  DestinationProfile.fromPartial({ fullyQualifiedName, opaqueProtocol });

export const added = (
  addresses: readonly (readonly [ip: string, port: number])[],
  setLabels: Record<string, string> = {},
  labels: Record<string, string> = {},
): Update =>
  Update.fromPartial({
    update: {
      $case: 'add',
      add: {
        addrs: addresses.map(([ip, port]) => ({
          addr: socketToWire(ip, port),
          weight: 10_000,
          metricLabels: labels,
        })),
        metricLabels: setLabels,
      },
    },
  });

export function sendNoEndpoints(call: GetCall): void {
  const headers = new Metadata();
  headers.set('nodemesh-initial-endpoints', '0');
  call.sendMetadata(headers);
}

export function fail(call: GetCall | ProfileCall, code: status, details = code.toString()): void {
  call.emit('error', { code, details });
}

export { status };
