// SPDX-License-Identifier: Apache-2.0
// The ports of every enrolled pod that the mesh answers for.

/** Mesh traffic. */
export const MESH_PORT = 4143;
export const TAP_PORT = 4190;
/** /live, /ready and the pod's /metrics. */
export const ADMIN_PORT = 4191;

/** Where the self-check dials from pods (agent/connect-test): addresses for documentation, which nobody has. */
export const TEST_PORT = 9;
export const TEST_ADDRESSES: readonly string[] = ['192.0.2.1', '2001:db8::1'];
