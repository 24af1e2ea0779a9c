// SPDX-License-Identifier: Apache-2.0
// Which Prometheus `mesh stat` and `mesh edges` ask, and what they say when it does not answer.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { failure, send } from '#lib/registry-kubernetes/fake-api-server.ts';
import { stringify } from 'yaml';
import { FakePrometheus } from './fake-prometheus.ts';
import { CONFIG_MAPS, NAMESPACES, TestSources } from './test-sources.ts';

let sources: TestSources;
beforeEach(async () => {
  sources = await TestSources.start();
});
afterEach(() => sources.close());

describe('the Prometheus', () => {
  /** Answers for Services, as the API server carries requests to them. */
  const carry = (): string[] => {
    const services: string[] = [];
    sources.api.intercept = ({ path, query }, response) => {
      const [, service, inner = ''] = /\/namespaces\/(.*?)\/proxy(\/.*)$/.exec(path) ?? [];
      if (service === undefined) return false;
      services.push(service);
      const { status, body } = sources.prometheus.answer(
        new URL(`${inner}?${query.toString()}`, 'http://fake'),
      );
      response.writeHead(status);
      response.end(body);
      return true;
    };
    return services;
  };
  const asked = async (prometheusUrl?: string): Promise<readonly string[]> => {
    const services = carry();
    assert.equal((await sources.edges('deploy', { prometheusUrl })).notes, 'No edges found.\n');
    return services;
  };
  const configure = (prometheusUrl: string): void =>
    void sources.api.put(CONFIG_MAPS, {
      metadata: { name: 'linkerd-config', namespace: 'nodemesh' },
      data: { values: stringify({ prometheusUrl }) },
    });
  const label = (name: string): void =>
    sources.put('services', name, {
      metadata: { name, namespace: 'shop', labels: { 'nodemesh.io/prometheus': 'true' } },
      spec: { ports: [{ name: 'web', port: 9090 }, { port: 1 }] },
    });

  it('is the Service that --prometheus-url names, through the API server', async () => {
    assert.deepEqual(await asked('monitoring/prometheus:web/below/'), ['monitoring/services/prometheus:web']);
    assert.equal(sources.prometheus.queries.length, 1);
  });

  it('is else the Service with our label', async () => {
    label('prometheus');
    assert.deepEqual(await asked(), ['shop/services/prometheus:9090']);
  });

  it("is before that what the installation's values say, with Services through the API server", async () => {
    label('prometheus');
    configure('https://thanos.monitoring.svc.cluster.local:10902/here');
    assert.deepEqual(await asked(), ['monitoring/services/https:thanos:10902']);
    configure(sources.prometheus.url);
    assert.deepEqual(await asked(), []);
  });

  it("is before that what is said to Linkerd's viz", async () => {
    configure('http://other.example.com');
    const annotations = { 'viz.linkerd.io/external-prometheus': 'http://prometheus.monitoring.svc' };
    const labels = { 'linkerd.io/extension': 'viz' };
    sources.api.put(NAMESPACES, { metadata: { name: 'linkerd-viz', labels, annotations } });
    assert.deepEqual(await asked(), ['monitoring/services/prometheus:80']);
  });

  it('is asked with the name and password of its URL', async () => {
    await asked(sources.prometheus.url.replace('http://', 'http://me:p%40ss@'));
    const login = `Basic ${Buffer.from('me:p@ss').toString('base64')}`;
    assert.deepEqual(sources.prometheus.authorizations, [login]);
  });

  it('says how to name one when there is none, or several', async () => {
    await assert.rejects(asked(), /no Prometheus is known; name it with --prometheus-url, set the value/);
    label('one');
    label('two');
    await assert.rejects(asked(), /several Services .*shop\/one, shop\/two; .*--prometheus-url/);
    await assert.rejects(
      asked('prometheus:9090'),
      /--prometheus-url prometheus:9090 names no Prometheus; write/,
    );
  });

  it('says what it answered, and where it was asked', async () => {
    const error = JSON.stringify({ status: 'error', error: 'query processing would load too many samples' });
    sources.prometheus.failure = { status: 422, body: error };
    await assert.rejects(
      sources.stat('deploy'),
      /Prometheus at http:\/\/127.*: query processing would load too many samples; .*--prometheus-url/,
    );
    sources.prometheus.failure = { status: 200, body: '<html>sign in</html>' };
    await assert.rejects(sources.stat('deploy'), /the answer is 200 <html>sign in<\/html>; /);
    sources.api.intercept = ({ path }, response) => {
      if (!path.includes('/proxy/')) return false;
      send(response, 503, failure(503, 'ServiceUnavailable', 'no endpoints available for service'));
      return true;
    };
    await assert.rejects(
      sources.edges('deploy', { prometheusUrl: 'monitoring/prometheus:9090' }),
      /Prometheus at service monitoring\/prometheus:9090: .*no endpoints available for service; /,
    );
    const gone = await FakePrometheus.start();
    const { url } = gone;
    await gone.close();
    await assert.rejects(
      sources.edges('deploy', { prometheusUrl: url }),
      /Prometheus at http:\/\/127.*: connect ECONNREFUSED .*; name one/,
    );
  });
});
