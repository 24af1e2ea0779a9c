// SPDX-License-Identifier: Apache-2.0
import 'reflect-metadata';
import assert from 'node:assert/strict';
import { KeyObject, webcrypto, X509Certificate } from 'node:crypto';
import { it } from 'node:test';
import { BasicConstraintsExtension, X509CertificateGenerator } from '@peculiar/x509';
import { MeshError } from '#lib/core/errors.ts';
import { checkChain } from '#lib/x509/verify.ts';
import { createIssuer } from './issuer.ts';
import { makeLeaf } from './make-leaf.ts';

const HOUR_MS = 3_600_000;
const RSA = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
const nowMs = Date.now();
const times = { notBefore: new Date(nowMs - HOUR_MS), notAfter: new Date(nowMs + HOUR_MS) };
const extensions = [new BasicConstraintsExtension(true, undefined, true)];

const anchorKeys = await webcrypto.subtle.generateKey(
  { ...RSA, modulusLength: 2048, publicExponent: Uint8Array.of(1, 0, 1) },
  true,
  ['sign', 'verify'],
);
const anchor = await X509CertificateGenerator.createSelfSigned({
  name: 'CN=root',
  keys: anchorKeys,
  signingAlgorithm: RSA,
  extensions,
  ...times,
});
const anchorPem = anchor.toString('pem');
const keyPem = ({ privateKey }: webcrypto.CryptoKeyPair): string =>
  KeyObject.from(privateKey).export({ type: 'pkcs8', format: 'pem' }) as string;

it('an issuer with an RSA key is refused, with what to make instead', async () => {
  const texts = { certificatePem: anchorPem, keyPem: keyPem(anchorKeys), anchorsPem: anchorPem };
  await assert.rejects(createIssuer(texts, nowMs), (error) => {
    assert.ok(error instanceof MeshError);
    assert.match(error.message, /the issuer's key must be ECDSA on P-256, P-384 or P-521/);
    assert.match(error.remedy ?? '', /make an ECDSA issuer/);
    return true;
  });
});

it('an anchor with an RSA key is taken', async () => {
  const keys = await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, [
    'sign',
    'verify',
  ]);
  const certificate = await X509CertificateGenerator.create({
    subject: 'CN=issuer',
    issuer: anchor.subjectName,
    publicKey: keys.publicKey,
    signingKey: anchorKeys.privateKey,
    signingAlgorithm: RSA,
    extensions,
    ...times,
  });
  const texts = { certificatePem: certificate.toString('pem'), keyPem: keyPem(keys), anchorsPem: anchorPem };
  const issuer = await createIssuer(texts, nowMs);
  const { chainPem } = await makeLeaf(issuer, {
    identity: 'web.shop',
    notBeforeMs: nowMs - 60_000,
    notAfterMs: nowMs + 60_000,
  });
  const [leaf = assert.fail(), ...intermediates] = (chainPem.match(/-----BEGIN[^]*?-----END.*/g) ?? []).map(
    (pem) => new X509Certificate(pem),
  );
  const found = checkChain({ leaf, intermediates, anchors: [new X509Certificate(anchorPem)], wallMs: nowMs });
  assert.ok(!('error' in found));
});
