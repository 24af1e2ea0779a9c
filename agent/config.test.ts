// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { agentSettings, loadAgentConfig } from './config.ts';

/** Something for each setting that has no default. */
const least = Object.fromEntries(
  Object.values(agentSettings).flatMap((one) => (one.default === undefined ? [[one.env, 'x']] : [])),
);

it('the socket of the keeper is in the run directory, or where it is set to be', () => {
  const env = { ...least, NODEMESH_RUN_DIR: '/run/here' };
  assert.equal(loadAgentConfig(env).keeperSocket, '/run/here/keeper.sock');
  const elsewhere = '/run/keeper/socket';
  assert.equal(loadAgentConfig({ ...env, NODEMESH_KEEPER_SOCKET: elsewhere }).keeperSocket, elsewhere);
});
