// SPDX-License-Identifier: Apache-2.0
// A cluster that is asked each question once: many checks look at the same objects.

import type { Cluster } from '../install/cluster.ts';

export interface RememberedCluster extends Cluster {
  /** What is asked from now on is asked anew. */
  forget(): void;
}

export function rememberAnswers(cluster: Cluster): RememberedCluster {
  const answers = new Map<string, Promise<unknown>>();
  const once = <Answer>(question: readonly unknown[], ask: () => Promise<Answer>): Promise<Answer> => {
    const key = JSON.stringify(question);
    const known = answers.get(key) as Promise<Answer> | undefined;
    if (known !== undefined) return known;
    const answer = ask();
    answers.set(key, answer);
    // What failed is asked again.
    answer.catch(() => answers.delete(key));
    return answer;
  };
  return {
    get: (path) => once(['get', path], () => cluster.get(path)),
    list: (path, labelSelector) =>
      once(['list', path, labelSelector], () => cluster.list(path, labelSelector)),
    text: (path, query) => once(['text', path, query], () => cluster.text(path, query)),
    ask: (path, object) => cluster.ask(path, object),
    apply: (path, object) => cluster.apply(path, object),
    remove: (path) => cluster.remove(path),
    close: () => cluster.close(),
    forget: () => answers.clear(),
  };
}
