// SPDX-License-Identifier: Apache-2.0
// The match that takes every request: Linkerd's proxies want one said.

import type { HttpRouteMatch } from './gen/linkerd/http_route.ts';

export const everyRequest: HttpRouteMatch = {
  path: { kind: { $case: 'prefix', prefix: '/' } },
  headers: [],
  queryParams: [],
  method: undefined,
};
