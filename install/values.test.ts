// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setValues } from './set-values.ts';
import { checkValues, lookUp, mergeValues, overridesOf, storedValues, type ValuesMap } from './values.ts';
import { fields } from './values-table.ts';

const problem = (values: ValuesMap): string => {
  try {
    checkValues(values);
  } catch (error) {
    return (error as Error).message;
  }
  return 'no error';
};

describe('values of an installation', () => {
  it('have defaults that pass their own checks', () => {
    const { values, ignored } = checkValues({});
    assert.deepEqual(ignored, []);
    for (const [path, field] of fields) assert.deepEqual(lookUp(values, path), field.default, path);
  });

  it('name the value that is wrong, what it was and what it may be', () => {
    assert.match(
      problem({ controllerReplicas: 'two' }),
      /^controllerReplicas: "two" cannot be used, expected a whole/,
    );
    assert.match(
      problem({ identity: { issuer: { issuanceLifetime: '1 day' } } }),
      /issuanceLifetime.*24h0m0s/,
    );
    assert.match(problem({ clusterNetworks: '10.0.0.0/8,none' }), /clusterNetworks: .*expected CIDRs/);
    assert.match(
      problem({ proxy: { opaquePorts: '25,http' } }),
      /proxy\.opaquePorts: .*expected ports or ranges/,
    );
    assert.match(
      problem({ identity: 'none' }),
      /^identity: expected a map with namespace, externalCA, issuer/,
    );
    assert.match(problem({ nodeSelector: { gpu: true } }), /nodeSelector: .*quote/);
  });

  it('tell every mistake at once, and where all values are listed', () => {
    const message = problem({ controllerUID: 0, imagePullPolicy: 'Sometimes' });
    assert.match(message, /controllerUID: 0 .*imagePullPolicy: "Sometimes".*docs\/reference\/values\.md/);
  });

  it('never show a private key in an error', () => {
    const message = problem({ identity: { issuer: { tls: { keyPEM: 'secret-text' } } } });
    assert.match(message, /keyPEM: what was given cannot be used, expected PEM/);
    assert.doesNotMatch(message, /secret-text/);
  });

  it('refuse a key that does not exist and name the one that was meant', () => {
    assert.match(
      problem({ controllerReplica: 2 }),
      /controllerReplica: there is no such value, did you mean controllerReplicas\?/,
    );
    assert.match(problem({ nodemesh: { fnord: 2 } }), /^nodemesh\.fnord: there is no such value;/);
  });

  it("take Linkerd's keys for what does not exist here, and say which", () => {
    const { values, ignored } = checkValues({
      proxy: { image: { version: 'x' }, defaultInboundPolicy: 'deny' },
      disableHeartBeat: true,
    });
    assert.deepEqual(ignored, ['proxy.image', 'disableHeartBeat']);
    assert.equal(lookUp(values, 'proxy.defaultInboundPolicy'), 'deny');
    assert.equal(lookUp(values, 'proxy.image'), undefined);
  });

  it('merge as Helm does: maps into each other, null takes away, all else replaces', () => {
    const merged = mergeValues({ a: { b: 1, c: [1, 2] }, d: 1 }, { a: { b: null, c: [3] }, e: { f: null } });
    assert.deepEqual(merged, { a: { c: [3] }, d: 1, e: { f: null } });
    assert.match(
      problem({ clusterDomain: null }),
      /clusterDomain: is missing; the default is "cluster.local"/,
    );
  });

  it('are stored without private keys and with the trust domain filled in', () => {
    const key = '-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n';
    const { values } = checkValues({ clusterDomain: 'a.b', identity: { issuer: { tls: { keyPEM: key } } } });
    const stored = storedValues(values);
    assert.equal(lookUp(stored, 'identity.issuer.tls.keyPEM'), undefined);
    assert.equal(lookUp(stored, 'identityTrustDomain'), 'a.b');
    assert.equal(lookUp(values, 'identity.issuer.tls.keyPEM'), key);
  });

  it('give back themselves from what differs from the defaults', () => {
    const given = { controllerReplicas: 3, nodeSelector: { disk: 'fast', 'kubernetes.io/os': null } };
    const { values } = checkValues(given);
    const overrides = overridesOf(values);
    assert.deepEqual(overrides, given);
    assert.deepEqual(checkValues(overrides).values, values);
  });
});

describe('--set', () => {
  const set = (text: string, mode: 'typed' | 'text' | 'whole' = 'typed'): unknown =>
    setValues({}, text, mode);

  it('sets nested keys and several at once', () => {
    assert.deepEqual(set('a.b=1,a.c=x,d=true,e=null,f='), { a: { b: 1, c: 'x' }, d: true, e: null, f: '' });
  });

  it('takes lists, and places in lists', () => {
    assert.deepEqual(set('a={x,2},b={}'), { a: ['x', 2], b: [] });
    assert.deepEqual(set('a[0].key=x,a[1].key=y'), { a: [{ key: 'x' }, { key: 'y' }] });
  });

  it('takes what a backslash stands before as it is', () => {
    assert.deepEqual(set('a\\.b/c=x\\,y'), { 'a.b/c': 'x,y' });
  });

  it('keeps codes with leading zeros, large numbers and everything of --set-string as text', () => {
    assert.deepEqual(set('a=007,b=12345678901234567890,c=1.5'), {
      a: '007',
      b: '12345678901234567890',
      c: '1.5',
    });
    assert.deepEqual(set('a=1,b=true', 'text'), { a: '1', b: 'true' });
  });

  it('takes the whole content of a file', () => {
    assert.deepEqual(set('a.b=x,y={z}', 'whole'), { a: { b: 'x,y={z}' } });
  });

  it('refuses a key without a value, lists without end and keys of JavaScript', () => {
    assert.throws(() => set('foo'), /key=value/);
    assert.throws(() => set('a[99999999]=1'), /lists end at/);
    assert.throws(() => set('__proto__.x=1'), /that is no key/);
    assert.throws(() => set('a..b=1'), /empty/);
  });

  it('leaves the values it starts from alone', () => {
    const base = { a: { b: 1 } };
    assert.deepEqual(setValues(base, 'a.c=2', 'typed'), { a: { b: 1, c: 2 } });
    assert.deepEqual(base, { a: { b: 1 } });
  });
});
