// SPDX-License-Identifier: Apache-2.0
// The idle keep-alive connections of one endpoint and host, last in first out: an intrusive list, so that taking,
// returning and dropping one from the middle are a few pointer writes. Timeouts and limits are the pool's (pool.ts).

/** What a connection brings along to be kept here. */
export interface IdleNode {
  /** The list's own fields; start with null. */
  idlePrevious: IdleNode | null;
  idleNext: IdleNode | null;
}

export class IdleList {
  readonly host: string;
  /** The connection that became idle last. */
  newest: IdleNode | null = null;
  count = 0;
  /** Connections that belong here, idle or in use: without any the list is forgotten. */
  members = 0;

  constructor(host: string) {
    this.host = host;
  }

  push(node: IdleNode): void {
    node.idlePrevious = this.newest;
    node.idleNext = null;
    if (this.newest !== null) this.newest.idleNext = node;
    this.newest = node;
    this.count++;
  }

  remove(node: IdleNode): void {
    if (node.idlePrevious !== null) node.idlePrevious.idleNext = node.idleNext;
    if (node.idleNext !== null) node.idleNext.idlePrevious = node.idlePrevious;
    else this.newest = node.idlePrevious;
    node.idlePrevious = null;
    node.idleNext = null;
    this.count--;
  }
}
