// SPDX-License-Identifier: Apache-2.0
// Pods of one account share its certificate: the first one asks for it, the last one to leave drops it.

export interface IdentityUses {
  use(identity: string): void;
  release(identity: string): void;
}

export function createIdentityUses(certificates: {
  want(identity: string): void;
  drop(identity: string): void;
}): IdentityUses {
  const uses = new Map<string, number>();
  return {
    use(identity) {
      const count = uses.get(identity) ?? 0;
      uses.set(identity, count + 1);
      if (count === 0) certificates.want(identity);
    },
    release(identity) {
      const count = (uses.get(identity) ?? 0) - 1;
      if (count > 0) {
        uses.set(identity, count);
        return;
      }
      uses.delete(identity);
      certificates.drop(identity);
    },
  };
}
