// The thread that code runs in. Another one talks to the kernel and has this one evaluate code as a debugger would:
// so top-level `await` and declarations made again mean what they mean in a console.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import util from "node:util";
import { Worker } from "node:worker_threads";
import fs from "node:fs";

const EVENTS = Number(process.env.SOULBOX_EVENTS);

function here() {
  return pathToFileURL(process.cwd() + "/");
}

function say(event) {
  fs.writeSync(EVENTS, JSON.stringify(event) + "\n");
}

// Modules are looked for where the code works, not where this file is.
async function load(name, options) {
  const text = String(name);
  try {
    return await import(import.meta.resolve(text, here()), options);
  } catch (error) {
    if (error?.code !== "ERR_MODULE_NOT_FOUND") throw error;
    let found;
    try {
      found = globalThis.require.resolve(text);
    } catch {
      throw error;
    }
    return import(pathToFileURL(found).href, options);
  }
}

function bundle(value) {
  if (value === undefined) return null;
  const shown = { "text/plain": util.inspect(value) };
  const own = typeof value === "object" && value !== null && typeof value._toMime === "function" ? value._toMime() : {};
  return { ...shown, ...own };
}

const hidden = { load, bundle };
Object.defineProperty(globalThis, Symbol.for("soulbox"), { value: hidden });
Object.defineProperty(globalThis, "require", { value: createRequire(here()), writable: true, configurable: true });
Object.defineProperty(globalThis, "display", {
  value: (data) => say({ display: typeof data === "object" && data !== null ? data : bundle(data) }),
  writable: true,
  configurable: true,
});

const report = (error) => process.stderr.write(`${util.inspect(error)}\n`);
process.on("uncaughtException", report);
process.on("unhandledRejection", report);

new Worker(new URL("./talk.mjs", import.meta.url), { workerData: { isTyped: process.argv.includes("--typescript") } });
