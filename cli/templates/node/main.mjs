// An agent: a small web service that comes aboard an AitherOS node by itself.
//
// Started with `npm start`, it first listens, then sends what aither-agent.yaml says to the node,
// which gives it a key and the addresses of models, memory and other agents. `answer` is the place
// to make it do something of its own.
//
// Environment:
//   AITHEROS_SERVER   the node (default http://localhost:8200)
//   AITHEROS_API_KEY  an account's key; a node on this machine needs none if this user may read
//                     its admin.key (AITHER_DATA_DIR names its data directory)
//   HOST, PORT        where to listen (default 127.0.0.1 and any free port)
//   AGENT_URL         where the node reaches this agent, if not at http://HOST:PORT

import { randomBytes } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { realpathSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import express from "express";
import { parse } from "yaml";

const SELF = fileURLToPath(import.meta.url);
const HERE = path.dirname(SELF);
const BUNDLE_FILE = path.join(HERE, ".aither", "bundle.json");
const SYSTEM_PROMPT = "You are a helpful assistant. Answer in a few sentences.";
// Longest message, longest wait for an answer of a model, and between two tries to come aboard.
const MESSAGE_LENGTH_MAX = 100_000;
const ANSWER_MS = 120_000;
const PAUSE_MS_MAX = 5_000;
// A node writes down its address a moment after it starts; until then its key is not found.
const KEYLESS_TRIES = 5;

/** A failure with the HTTP status that it is answered with. */
class Failure extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const app = express();
app.use(express.json({ limit: "1mb" }));

app.get("/health", (request, response) => {
  response.json({ status: "healthy" });
});

app.post("/chat", async (request, response) => {
  const message = request.body?.message;
  if (typeof message !== "string" || message === "" || message.length > MESSAGE_LENGTH_MAX) {
    throw new Failure(422, `message must be a text of 1 to ${MESSAGE_LENGTH_MAX} characters`);
  }
  response.json(await answer(message));
});

// Four parameters are what tells Express that this answers for errors.
app.use((error, request, response, next) => {
  const status = error.status ?? 500;
  if (status === 500) console.error(error);
  response.status(status).json({ detail: status === 500 ? "internal error" : error.message });
});

/** Asks a model of the node, with this agent's own key. */
async function answer(message) {
  const bundle = await readBundle();
  const messages = [
    { role: "system", content: SYSTEM_PROMPT },
    { role: "user", content: message },
  ];
  let reply;
  try {
    reply = await post(bundle.inference_endpoints.chat, bundle.api_key, { messages });
  } catch (error) {
    throw new Failure(502, `the node does not answer: ${reason(error)}`);
  }
  if (!reply.ok) throw new Failure(502, `the node refused: ${await problem(reply)}`);
  const done = await reply.json();
  return { response: done.message.content, tokens_used: done.tokens_used };
}

function post(url, key, body) {
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const signal = AbortSignal.timeout(ANSWER_MS);
  // The key is for this address and no other.
  const redirect = "error";
  return fetch(url, { method: "POST", headers, body: JSON.stringify(body), signal, redirect });
}

/** Returns the node's words for a refusal, with what is wrong of each field. */
async function problem(reply) {
  const body = await reply.json().catch(() => null);
  if (typeof body?.detail !== "string") return `status ${reply.status}`;
  const errors = Array.isArray(body.errors) ? body.errors : [];
  const words = errors.map((error) => `${error.field}: ${error.message}`);
  return `${[body.detail, ...words].join("; ")} (${body.code})`;
}

/** Returns what lies behind "fetch failed". */
function reason(error) {
  return error.cause?.code ?? error.cause?.message ?? error.message;
}

// Coming aboard.

/** Sends the card until the node takes it, and saves what it gives. */
async function comeAboard(agentUrl) {
  const named = process.env.AITHEROS_SERVER || "http://localhost:8200";
  const server = (named.includes("://") ? named : `http://${named}`).replace(/\/+$/, "");
  const card = parse(await readFile(path.join(HERE, "aither-agent.yaml"), "utf8"));
  const body = { agent_card: { ...card, agent_url: agentUrl }, mode: "hybrid" };
  for (let tries = 1; ; tries += 1) {
    const key = await findKey(server);
    let waitsFor;
    try {
      const reply = await post(`${server}/v1/agents/auto-onboard`, key, body);
      if (reply.ok) {
        await saveBundle(await reply.json());
        break;
      }
      waitsFor = await whyNotYet(reply, key === null && tries < KEYLESS_TRIES);
    } catch (error) {
      // What fetch throws: it could not reach the server, or got no whole answer in time.
      if (!(error instanceof TypeError || error.name === "TimeoutError")) throw error;
      waitsFor = `does not answer (${reason(error)})`;
    }
    if (tries === 1) console.log(`${server} ${waitsFor}; trying again until it takes this agent`);
    await sleep(Math.min(500 * 2 ** (tries - 1), PAUSE_MS_MAX));
  }
  const example = JSON.stringify({ message: "What is gravity?" });
  console.log(
    `${card.name} is aboard ${server}; try: curl ${agentUrl}/chat ` +
      `-H 'content-type: application/json' -d '${example}'`,
  );
}

/** Returns why the node has to be asked again, unless asking again would not help. */
async function whyNotYet(reply, mayFindKey) {
  const { status } = reply;
  const words = await problem(reply);
  if (status === 429 || (status >= 500 && status !== 501) || (status === 401 && mayFindKey)) {
    return `is not ready: ${words}`;
  }
  const remedy = status === 401 ? "; set AITHEROS_API_KEY" : "";
  throw new Failure(status, `the node refuses this agent: ${words}${remedy}`);
}

/**
 * Returns the key to come aboard with. The admin key rules its node, so it goes to the node that
 * runs on its directory and to no other server.
 */
async function findKey(server) {
  const key = process.env.AITHEROS_API_KEY?.trim();
  if (key) return key;
  if (!isLoopback(server)) return null;
  const share = process.env.XDG_DATA_HOME || path.join(homedir(), ".local", "share");
  const dataDir = process.env.AITHER_DATA_DIR || path.join(share, "aither");
  try {
    const running = JSON.parse(await readFile(path.join(dataDir, "run.json"), "utf8")).http;
    if (portOf(running) !== portOf(server)) return null;
    return (await readFile(path.join(dataDir, "admin.key"), "utf8")).trim();
  } catch {
    return null;
  }
}

function portOf(url) {
  const { port, protocol } = new URL(url);
  return port || (protocol === "https:" ? "443" : "80");
}

function isLoopback(url) {
  const host = new URL(url).hostname;
  return host === "localhost" || host === "[::1]" || /^127(\.\d+){3}$/.test(host);
}

/** Saves key and endpoints for this user alone; the file is always whole. */
async function saveBundle(bundle) {
  await mkdir(path.dirname(BUNDLE_FILE), { mode: 0o700, recursive: true });
  const whole = `${BUNDLE_FILE}.${randomBytes(8).toString("hex")}.new`;
  await writeFile(whole, JSON.stringify(bundle), { mode: 0o600, flag: "wx" });
  await rename(whole, BUNDLE_FILE);
}

async function readBundle() {
  try {
    return JSON.parse(await readFile(BUNDLE_FILE, "utf8"));
  } catch (error) {
    if (error.code === "ENOENT") throw new Failure(503, "this agent is not aboard a node yet");
    throw error;
  }
}

// Starting.

function leave(error) {
  console.error(`error: ${error.message}`);
  process.exit(1);
}

function main() {
  const host = process.env.HOST || "127.0.0.1";
  const listener = app.listen(Number(process.env.PORT || 0), host, (error) => {
    if (error) return leave(error);
    const shown = host.includes(":") ? `[${host}]` : host;
    const agentUrl = process.env.AGENT_URL || `http://${shown}:${listener.address().port}`;
    // The node looks at once whether this agent is healthy, so it listens first.
    return comeAboard(agentUrl).catch(leave);
  });
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => {
      listener.close(() => process.exit(0));
      listener.closeIdleConnections();
      // Answers that are being made get a moment to end.
      setTimeout(() => process.exit(0), 5_000).unref();
    });
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === SELF) main();
