/** The requests to Spectron that the assistant makes. Scopes are those of the built-in mapping, `user/<id>`, escaped. */

import { createHash, randomUUID } from "node:crypto";

const TRIES = 4;

/** The scope segment of an id, exactly as the migration writes it: ids such as e-mail addresses are escaped. */
export function segment(id: string): string {
  if (id.length <= 64 && /^[a-z0-9][a-z0-9._-]*$/.test(id) && !id.startsWith("x--")) return id;
  const bytes = Buffer.concat([...id].map(utf8));
  const spelled = [...bytes].map((byte) => {
    const character = String.fromCharCode(byte);
    return /[a-z0-9._]/.test(character) ? character : `-${byte.toString(16).padStart(2, "0")}`;
  });
  const escaped = `x--${spelled.join("")}`;
  return escaped.length <= 64 ? escaped : `x---h${createHash("sha256").update(bytes).digest("hex").slice(0, 32)}`;
}

/** UTF-8, in which half of a surrogate pair keeps its own three bytes. */
function utf8(character: string): Buffer {
  const code = character.codePointAt(0)!;
  if (code < 0xd800 || code > 0xdfff) return Buffer.from(character);
  return Buffer.from([0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)]);
}

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
    const scope = `user/${segment(user)}`;
    const lens = [[scope], [`${scope}/*`]];
    const answer = await this.#post("/query", { query, k, lens, include: ["passages"] });
    return answer.hits.map((hit: { text: string }) => hit.text);
  }

  /** Stores a text in the user's scope. All tries send the same bytes under one key, so it is stored once. */
  async add(user: string, text: string): Promise<void> {
    const fact = {
      text,
      infer: "full",
      session_id: await this.#sessionOf(user),
      scopes: [[`user/${segment(user)}`]],
      role: "user",
      memory_category: "knowledge",
    };
    await this.#post("/facts", fact, randomUUID());
  }

  /** A session of this process for the user, whose scope is registered first if it is new. */
  async #sessionOf(user: string): Promise<string> {
    const known = this.#sessions.get(user);
    if (known !== undefined) return known;
    const scope = `user/${segment(user)}`;
    await this.#post("/scopes", { path: scope }, undefined, [409]);
    const { id } = await this.#post("/sessions", { scopes: [[scope]], metadata: {} });
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
