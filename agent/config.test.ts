// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { agentSettings, loadAgentConfig } from './config.ts';

/** Something for each setting that has no default. */
const least = Object.fromEntries(
  Object.values(agentSettings).flatMap((one) => (one.default === undefined ? [[one.env, 'x:1']] : [])),
);

it('the socket of the keeper is in the run directory, or where it is set to be', () => {
  const env = { ...least, NODEMESH_RUN_DIR: '/run/here' };
  assert.equal(loadAgentConfig(env).keeperSocket, '/run/here/keeper.sock');
  const elsewhere = '/run/keeper/socket';
  assert.equal(loadAgentConfig({ ...env, NODEMESH_KEEPER_SOCKET: elsewhere }).keeperSocket, elsewhere);
});

it('addresses of the control plane are those that Kubernetes has filled in', () => {
  const addressOf = (NODEMESH_IDENTITY_ADDRESS: string) =>
    loadAgentConfig({ ...least, NODEMESH_IDENTITY_ADDRESS }).identityAddress;
  const name = 'linkerd-identity.nodemesh.svc.cluster.local:8080';
  assert.equal(addressOf(`10.96.0.7:8080, ${name}`), `10.96.0.7:8080,${name}`);
  assert.equal(addressOf(`$(LINKERD_IDENTITY_SERVICE_HOST):8080,${name}`), name);
  assert.equal(addressOf(`fd00:96::7:8080,${name}`), `[fd00:96::7]:8080,${name}`);
  assert.equal(addressOf('[fd00::7]:8080'), '[fd00::7]:8080');
  for (const none of ['$(LINKERD_IDENTITY_SERVICE_HOST):8080', '10.96.0.7', `${name},fd00:96::7`])
    assert.throws(() => addressOf(none), /NODEMESH_IDENTITY_ADDRESS.*ip:port/, none);
});

it('a stock Linkerd is used with both servers and both names, or not at all', () => {
  const all = {
    NODEMESH_LINKERD_DESTINATION_ADDRESS: 'linkerd-dst.linkerd:8086',
    NODEMESH_LINKERD_DESTINATION_NAME: 'a',
    NODEMESH_LINKERD_POLICY_ADDRESS: '10.96.0.8:8090',
    NODEMESH_LINKERD_POLICY_NAME: 'b',
  };
  assert.equal(loadAgentConfig(least).linkerdDestinationAddress, '');
  assert.equal(loadAgentConfig({ ...least, ...all }).linkerdPolicyAddress, '10.96.0.8:8090');
  for (const name of Object.keys(all)) {
    assert.throws(
      () => loadAgentConfig({ ...least, ...all, [name]: '' }),
      new RegExp(`^MeshError: ${name}: empty`),
    );
    assert.throws(
      () => loadAgentConfig({ ...least, [name]: 'x' }),
      /set all of NODEMESH_LINKERD_DESTINATION_ADDRESS/,
    );
  }
});
