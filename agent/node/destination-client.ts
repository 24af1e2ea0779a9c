// SPDX-License-Identifier: Apache-2.0
// The agent's one connection to destination. Node stream and lookups share it on purpose: destination knows by
// the node stream's token for which node the connection may look things up. A stock Linkerd is asked over connections of
// its own, one for each of its servers.

import { Channel, type ChannelCredentials, type ChannelOptions, type Interceptor } from '@grpc/grpc-js';
import { targetOf } from '#lib/grpc/server-addresses.ts';
import { DestinationClient } from '#lib/proto/gen/linkerd/destination.ts';
import { OutboundPoliciesClient } from '#lib/proto/gen/linkerd/outbound.ts';
import { NodeServiceClient } from '#lib/proto/gen/nodemesh/node/v1/node.ts';

export interface DestinationConnection {
  readonly node: NodeServiceClient;
  readonly destination: DestinationClient;
  readonly policies: OutboundPoliciesClient;
  close(): void;
}

/** What endpoints, profiles and outbound policies are asked of. */
export type LookupConnection = Omit<DestinationConnection, 'node'>;

/** As lib/grpc/client.ts makes it. */
interface MeshChannel {
  readonly credentials: ChannelCredentials;
  readonly options: ChannelOptions;
}

export interface LookupServer {
  /** Or several, with commas between. */
  readonly address: string;
  readonly channel: MeshChannel;
  readonly interceptor?: Interceptor;
}

export function connectDestination(server: LookupServer): DestinationConnection {
  const { shared, target, options } = connection(server);
  const { credentials } = server.channel;
  return {
    node: new NodeServiceClient(target, credentials, options),
    destination: new DestinationClient(target, credentials, options),
    policies: new OutboundPoliciesClient(target, credentials, options),
    close: () => shared.close(),
  };
}

/** To the two servers of a stock Linkerd. */
export function connectStockLinkerd(destination: LookupServer, policy: LookupServer): LookupConnection {
  const [toDestination, toPolicy] = [connection(destination), connection(policy)];
  const [lookups, policies] = [destination.channel.credentials, policy.channel.credentials];
  return {
    destination: new DestinationClient(toDestination.target, lookups, toDestination.options),
    policies: new OutboundPoliciesClient(toPolicy.target, policies, toPolicy.options),
    close: () => {
      toDestination.shared.close();
      toPolicy.shared.close();
    },
  };
}

function connection({ address, channel, interceptor }: LookupServer) {
  const target = targetOf(address);
  const shared = new Channel(target, channel.credentials, channel.options);
  const interceptors = interceptor === undefined ? {} : { interceptors: [interceptor] };
  return { shared, target, options: { channelOverride: shared, ...interceptors } };
}
