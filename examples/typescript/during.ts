/** An assistant while it moves from Mem0 to Spectron. Usage: node during.ts USER TEXT */

import { readFileSync } from "node:fs";
import { Memory } from "mem0ai/oss";
import { Routing } from "./routing.ts";
import { Spectron } from "./spectron.ts";

const routing = new Routing(process.env.SPECTRON_MIGRATE_STATE ?? ".spectron-migrate");
const mem0 = new Memory(JSON.parse(readFileSync("mem0.json", "utf-8")));
const spectron = new Spectron(
  process.env.SPECTRON_ENDPOINT ?? "",
  process.env.SPECTRON_CONTEXT ?? "",
  process.env.SPECTRON_API_KEY ?? "",
);

async function search(user: string, text: string): Promise<string[]> {
  if (routing.readsFromSpectron(user)) return spectron.search(user, text, 3);
  const found = await mem0.search(text, { filters: { user_id: user }, topK: 3 });
  return found.results.map((each: { memory: string }) => each.memory);
}

async function add(user: string, text: string): Promise<void> {
  if (routing.writesToSpectron()) await spectron.add(user, text);
  else await mem0.add(text, { userId: user, infer: false });
}

const [user, text] = process.argv.slice(2);
try {
  for (const known of await search(user, text)) console.log(known);
  await add(user, text);
} finally {
  routing.close();
}
