// SPDX-License-Identifier: Apache-2.0
// The agent's one connection to destination. Node stream and lookups share it on purpose: destination knows by
// the node stream's token for which node the connection may look things up. A stock Linkerd is asked over connections of
// its own, one for each of its servers.

import { Channel, type ChannelCredentials, type ChannelOptions, type Interceptor } from '@grpc/grpc-js';
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
  readonly address: string;
  readonly channel: MeshChannel;
  readonly interceptor?: Interceptor;
}

export function connectDestination(server: LookupServer): DestinationConnection {
  const { shared, options } = connection(server);
  const { address, channel } = server;
  return {
    node: new NodeServiceClient(address, channel.credentials, options),
    destination: new DestinationClient(address, channel.credentials, options),
    policies: new OutboundPoliciesClient(address, channel.credentials, options),
    close: () => shared.close(),
  };
}

/** To the two servers of a stock Linkerd. */
export function connectStockLinkerd(destination: LookupServer, policy: LookupServer): LookupConnection {
  const [toDestination, toPolicy] = [connection(destination), connection(policy)];
  const { address, channel } = destination;
  return {
    destination: new DestinationClient(address, channel.credentials, toDestination.options),
    policies: new OutboundPoliciesClient(policy.address, policy.channel.credentials, toPolicy.options),
    close: () => {
      toDestination.shared.close();
      toPolicy.shared.close();
    },
  };
}

function connection({ address, channel, interceptor }: LookupServer) {
  const shared = new Channel(address, channel.credentials, channel.options);
  const interceptors = interceptor === undefined ? {} : { interceptors: [interceptor] };
  return { shared, options: { channelOverride: shared, ...interceptors } };
}
