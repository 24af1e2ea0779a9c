// SPDX-License-Identifier: Apache-2.0
// All objects of an installation made by the command line.

import { controlPlaneGroups } from './control-plane.ts';
import { namespaceGroup, overridesSecret } from './objects/config.ts';
import { printValues } from './print.ts';
import { type KubernetesObject, renderObjects } from './render-objects.ts';
import { overridesOf, type Values } from './values.ts';

export interface InstallOptions {
  readonly values: Values;
  readonly namespace: string;
  readonly version: string;
}

export function controlPlaneObjects(options: InstallOptions): KubernetesObject[] {
  const creator = `nodemesh/cli ${options.version}`;
  const context = { values: options.values, namespace: options.namespace, creator };
  return [
    ...renderObjects([namespaceGroup, ...controlPlaneGroups], context),
    overridesSecret({
      namespace: options.namespace,
      creator,
      overrides: printValues(overridesOf(options.values)),
    }),
  ];
}
