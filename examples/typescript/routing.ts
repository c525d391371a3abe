/** Where a read goes during a cutover, from `routing.json`, and the heartbeat by which `cutover complete` knows of us. */

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";

const LOOK_AGAIN_MS = 500;
const BEAT_MS = 20_000;

export interface RoutingFile {
  migration: string;
  phase: "mem0" | "started" | "shift" | "closing" | "complete";
  percent: number;
  pinned: { spectron: string[]; mem0: string[] };
  epoch: number;
  fresh_until: number | null;
  behind: string[] | null;
}

/** Whether a search for this user goes to Spectron; `now` in seconds since 1970. */
export function readsFromSpectron(routing: RoutingFile, userId: string, now: number): boolean {
  const name = createHash("sha256").update(`${routing.migration}:${userId}`).digest("hex").slice(0, 16);
  const { behind, fresh_until: until, pinned, percent } = routing;
  if (behind === null || behind.includes(name) || (until !== null && now > until)) return false;
  if (pinned.spectron.includes(name) || pinned.mem0.includes(name)) return pinned.spectron.includes(name);
  return Number(BigInt(`0x${name}`) % 10000n) < percent * 100;
}

/** One process of an application. Call `close` as the last thing before it exits. */
export class Routing {
  readonly #state: string;
  readonly #name = `${hostname()}-${process.pid}`;
  readonly #timer: NodeJS.Timeout;
  #routing: RoutingFile | null = null;
  #lookedAt = -Infinity;
  #lastRead: string | null = null;
  #isComplete = false;

  /** `state`: the state directory of spectron-migrate, which must exist. */
  constructor(state: string) {
    this.#state = state;
    this.#beat(null);
    this.#timer = setInterval(() => this.#beat(null), BEAT_MS).unref();
  }

  /** Whether a search for this user goes to Spectron. A routing file that cannot be read means Mem0. */
  readsFromSpectron(userId: string): boolean {
    this.#look();
    this.#lastRead = new Date().toISOString();
    if (this.#isComplete) return true;
    return this.#routing !== null && readsFromSpectron(this.#routing, userId, Date.now() / 1000);
  }

  /**
   * Whether writes go to Spectron alone. Once true it stays true.
   * Throws if the routing cannot be read: a write to Mem0 after `complete` would be lost.
   */
  writesToSpectron(): boolean {
    this.#look();
    if (this.#isComplete) return true;
    if (this.#routing === null) throw new Error(`${join(this.#state, "routing.json")} cannot be read: nothing is written`);
    return false;
  }

  close(): void {
    clearInterval(this.#timer);
    this.#beat(new Date().toISOString());
  }

  #look(): void {
    if (Date.now() - this.#lookedAt < LOOK_AGAIN_MS) return;
    this.#lookedAt = Date.now();
    try {
      this.#routing = JSON.parse(readFileSync(join(this.#state, "routing.json"), "utf-8"));
    } catch {
      this.#routing = null;
    }
    this.#isComplete ||= this.#routing?.phase === "complete";
  }

  /** Replaces the heartbeat file as a whole, so that nobody reads half of it. */
  #beat(ended: string | null): void {
    const folder = join(this.#state, "applications");
    const file = join(folder, `${this.#name}.json`);
    mkdirSync(folder, { recursive: true });
    const heartbeat = {
      schema: 1,
      host: hostname(),
      pid: process.pid,
      heartbeat: new Date().toISOString(),
      last_read: this.#lastRead,
      epoch: this.#routing?.epoch ?? 0,
      ended,
      calls: {}, // nothing but `search` and `add` is called
    };
    writeFileSync(`${file}.new`, JSON.stringify(heartbeat));
    renameSync(`${file}.new`, file);
  }
}
