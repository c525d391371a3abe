/** The three requests to Spectron that the assistant makes. Scopes are those of the built-in mapping, `user/<id>`. */

import { randomUUID } from "node:crypto";

const TRIES = 4;

export class Spectron {
  readonly #base: string;
  readonly #key: string;
  readonly #sessions = new Map<string, string>();

  constructor(endpoint: string, context: string, key: string) {
    this.#base = `${endpoint.replace(/\/+$/, "")}/api/v1/${encodeURIComponent(context)}`;
    this.#key = key;
  }

  /** The texts that are known about the query in the user's scope and below it, best first. */
  async search(user: string, query: string, k: number): Promise<string[]> {
    const lens = [[`user/${user}`], [`user/${user}/*`]];
    const answer = await this.#post("/query", { query, k, lens, include: ["passages"] });
    return answer.hits.map((hit: { text: string }) => hit.text);
  }

  /** Stores a text in the user's scope. All tries send the same bytes under one key, so it is stored once. */
  async add(user: string, text: string): Promise<void> {
    const fact = {
      text,
      infer: "full",
      session_id: await this.#sessionOf(user),
      scopes: [[`user/${user}`]],
      role: "user",
      memory_category: "knowledge",
    };
    await this.#post("/facts", fact, randomUUID());
  }

  /** A session of this process for the user, whose scope is registered first if it is new. */
  async #sessionOf(user: string): Promise<string> {
    const known = this.#sessions.get(user);
    if (known !== undefined) return known;
    await this.#post("/scopes", { path: `user/${user}` }, undefined, [409]);
    const { id } = await this.#post("/sessions", { scopes: [[`user/${user}`]], metadata: {} });
    this.#sessions.set(user, id);
    return id;
  }

  /** Tries again after a lost answer, 429 and 5xx. Throws for any other status but those in `accepted`. */
  async #post(path: string, body: unknown, key?: string, accepted: number[] = []): Promise<any> {
    const headers: Record<string, string> = { Authorization: `Bearer ${this.#key}`, "Content-Type": "application/json" };
    if (key !== undefined) headers["Idempotency-Key"] = key;
    const content = JSON.stringify(body);
    for (let attempt = 1; ; attempt++) {
      const answer = await fetch(this.#base + path, { method: "POST", headers, body: content }).catch((error) => {
        if (attempt === TRIES) throw error;
        return null;
      });
      if (answer?.ok || accepted.includes(answer?.status ?? 0)) return await answer?.json();
      if (answer !== null && answer.status !== 429 && answer.status < 500) throw new Error(`${path}: ${answer.status}`);
      if (answer !== null && attempt === TRIES) throw new Error(`${path}: ${answer.status}`);
      await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** attempt));
    }
  }
}
