// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ContainerState, type ContainerStatus, phaseWith } from './objects.ts';

const at = '2026-01-01T00:00:00Z';
const waiting: ContainerState = { waiting: { reason: 'PodInitializing' } };
const running: ContainerState = { running: { startedAt: at } };
const ended: ContainerState = {
  terminated: { exitCode: 1, reason: 'Error', startedAt: at, finishedAt: at },
};
const container = (state: ContainerState, lastState?: ContainerState): ContainerStatus => ({
  name: 'main',
  image: '',
  ready: false,
  started: false,
  restartCount: 0,
  state,
  ...(lastState && { lastState }),
});

test('a pod is pending until each container has begun once, and does not go back', () => {
  assert.equal(phaseWith('Pending', []), 'Pending');
  assert.equal(phaseWith('Pending', [container(waiting)]), 'Pending');
  assert.equal(phaseWith('Pending', [container(running), container(waiting)]), 'Pending');
  assert.equal(phaseWith('Pending', [container(running), container(running)]), 'Running');
  assert.equal(phaseWith('Pending', [container(ended)]), 'Running');
  assert.equal(phaseWith('Pending', [container(waiting, ended)]), 'Running', 'it is to start again');
  assert.equal(phaseWith('Running', [container(waiting)]), 'Running');
  assert.equal(phaseWith('Succeeded', [container(ended)]), 'Succeeded');
});
