// SPDX-License-Identifier: Apache-2.0
// Everything that the control plane consists of, in the order in which it is applied.

import { config } from './objects/config.ts';
import { destination } from './objects/destination.ts';
import { identity, identityCredentials } from './objects/identity.ts';
import { policyValidator } from './objects/policy-validator.ts';
import type { ObjectGroup } from './tree.ts';

export const controlPlaneGroups: readonly ObjectGroup[] = [
  config,
  identityCredentials,
  identity,
  destination,
  policyValidator,
];
