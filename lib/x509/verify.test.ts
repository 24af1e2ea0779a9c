// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { webcrypto, X509Certificate } from 'node:crypto';
import { before, describe, it } from 'node:test';
import 'reflect-metadata';
import { SubjectAlternativeNameExtension, X509CertificateGenerator } from '@peculiar/x509';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import {
  checkChain,
  identityMismatch,
  outsideValidity,
  parseCertificates,
  presentedIdentity,
  subjectNames,
} from './verify.ts';

const HOUR_MS = 3_600_000;
const nowMs = Date.now();
const web = 'web.shop.serviceaccount.identity.linkerd.cluster.local';
let authority: TestAuthority;
let foreign: TestAuthority;

before(async () => {
  authority = await makeTestAuthority(nowMs);
  foreign = await makeTestAuthority(nowMs);
});

async function withNames(
  names: { type: 'dns' | 'url' | 'email'; value: string }[],
): Promise<X509Certificate> {
  const keys = await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, [
    'sign',
    'verify',
  ]);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: 'CN=subject.is.never.looked.at',
    keys,
    extensions: [new SubjectAlternativeNameExtension(names)],
  });
  return new X509Certificate(Buffer.from(certificate.rawData));
}

describe('names of a leaf', () => {
  it('are its DNS and URI names, in their order', async () => {
    const certificate = await withNames([
      { type: 'email', value: 'a@example.org' },
      { type: 'url', value: 'spiffe://root/web' },
      { type: 'dns', value: web },
    ]);
    assert.deepEqual(subjectNames(certificate), [
      { kind: 'uri', value: 'spiffe://root/web' },
      { kind: 'dns', value: web },
    ]);
    assert.equal(presentedIdentity(certificate), 'spiffe://root/web');
    assert.equal(identityMismatch(certificate, web), undefined);
    assert.equal(identityMismatch(certificate, 'spiffe://root/web'), undefined);
  });

  it('cannot be forged by a name that contains a separator', async () => {
    const certificate = await withNames([{ type: 'dns', value: `evil, DNS:${web}` }]);
    assert.deepEqual(subjectNames(certificate), [{ kind: 'dns', value: `evil, DNS:${web}` }]);
    assert.ok(identityMismatch(certificate, web));
  });

  it('must match exactly: no wildcard, no suffix, no case folding, no common name', async () => {
    const certificate = await withNames([{ type: 'dns', value: '*.shop.example' }]);
    for (const name of ['a.shop.example', 'shop.example', '*.SHOP.example', 'subject.is.never.looked.at'])
      assert.match(
        identityMismatch(certificate, name)?.message ?? '',
        new RegExp(`expected ${name.replaceAll('*', '\\*')}, presented \\*\\.shop\\.example`),
      );
  });
});

describe('chains', () => {
  it('lead from a leaf over the issuer to an anchor, of several', async () => {
    const [leaf, ...intermediates] = parseCertificates((await authority.leaf(web)).chainPem, 'chain');
    assert.ok(leaf);
    const anchors = parseCertificates(foreign.anchorPem + authority.anchorPem, 'anchors');
    assert.equal(anchors.length, 2);
    const result = checkChain({ leaf, intermediates, anchors, wallMs: nowMs });
    assert.ok('path' in result);
    assert.equal(result.path.length, 2);
  });

  const refused = async (
    chain: (leaf: X509Certificate, issuer: X509Certificate) => Parameters<typeof checkChain>[0],
  ): Promise<string> => {
    const [leaf, issuer] = parseCertificates((await authority.leaf(web)).chainPem, 'chain');
    assert.ok(leaf !== undefined && issuer !== undefined);
    const result = checkChain(chain(leaf, issuer));
    assert.ok('error' in result);
    return result.error.message;
  };
  const anchorsOf = (one: TestAuthority): X509Certificate[] => parseCertificates(one.anchorPem, 'anchors');

  it('are refused when the anchor is foreign', async () => {
    const message = await refused((leaf, issuer) => ({
      leaf,
      intermediates: [issuer],
      anchors: anchorsOf(foreign),
      wallMs: nowMs,
    }));
    assert.match(message, /web\.shop.*does not lead to a trust anchor/);
  });

  it('are refused without the issuer', async () => {
    await refused((leaf) => ({ leaf, intermediates: [], anchors: anchorsOf(authority), wallMs: nowMs }));
  });

  it('are refused when a leaf poses as issuer', async () => {
    const [other] = parseCertificates((await authority.leaf('other')).chainPem, 'chain');
    assert.ok(other);
    await refused((leaf) => ({ leaf, intermediates: [other], anchors: [other], wallMs: nowMs }));
  });

  it('are refused before and after the time of leaf and issuer', async () => {
    for (const [wallMs, expected] of [
      [nowMs - 2 * HOUR_MS, /not valid before/],
      [nowMs + 2 * HOUR_MS, /expired at/],
    ] as const) {
      const message = await refused((leaf, issuer) => ({
        leaf,
        intermediates: [issuer],
        anchors: anchorsOf(authority),
        wallMs,
      }));
      assert.match(message, expected);
    }
    const [issuer] = parseCertificates(authority.issuerPem, 'issuer');
    assert.ok(issuer);
    assert.match(outsideValidity(issuer, nowMs + 30 * 24 * HOUR_MS)?.message ?? '', /identity\.linkerd/);
  });

  it('with garbage between the markers are an error that names the file', () => {
    assert.throws(
      () =>
        parseCertificates('-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----', 'anchors.pem'),
      /anchors\.pem cannot be read/,
    );
  });
});
