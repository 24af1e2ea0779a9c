// SPDX-License-Identifier: Apache-2.0
// The ports of every enrolled pod that the mesh answers for.

/** Mesh traffic. */
export const MESH_PORT = 4143;
export const TAP_PORT = 4190;
/** /live, /ready and the pod's /metrics. */
export const ADMIN_PORT = 4191;
