// Takes requests, has the main thread evaluate them, and tells what came of it.

import fs from "node:fs";
import inspector from "node:inspector";
import readline from "node:readline";
import { workerData } from "node:worker_threads";

import { prepared } from "./source.mjs";

const EVENTS = Number(process.env.SOULBOX_EVENTS);

// Waiting for an answer of the main thread does not keep a thread alive by itself.
setInterval(() => {}, 1 << 30);

const session = new inspector.Session();
session.connectToMainThread();

function post(method, parameters) {
  return new Promise((resolve, reject) => {
    session.post(method, parameters, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

function say(event) {
  fs.writeSync(EVENTS, JSON.stringify(event) + "\n");
}

const globalObject = (await post("Runtime.evaluate", { expression: "globalThis" })).result.objectId;

function argumentOf(result) {
  if (result.objectId) return { objectId: result.objectId };
  if (result.unserializableValue) return { unserializableValue: result.unserializableValue };
  return { value: result.value };
}

async function shown(result) {
  const { result: bundle } = await post("Runtime.callFunctionOn", {
    objectId: globalObject,
    functionDeclaration: "(value) => globalThis[Symbol.for('soulbox')].bundle(value)",
    arguments: [argumentOf(result)],
    returnByValue: true,
  });
  return bundle.value ?? null;
}

function failure({ exception, text }) {
  if (exception?.subtype !== "error") {
    const value = exception ? String(exception.description ?? exception.value) : text;
    return { name: "Error", value, traceback: `Uncaught ${value}` };
  }
  const description = exception.description ?? text;
  const [first] = description.split("\n");
  const name = exception.className ?? "Error";
  const value = first.startsWith(`${name}: `) ? first.slice(name.length + 2) : first;
  return { name, value, traceback: description };
}

async function evaluated(code) {
  let expression;
  try {
    expression = await prepared(code, workerData.isTyped);
  } catch (error) {
    return { name: "SyntaxError", value: error.message, traceback: `SyntaxError: ${error.message}` };
  }
  const answer = await post("Runtime.evaluate", {
    expression,
    replMode: true,
    userGesture: true,
    includeCommandLineAPI: false,
  });
  if (answer.exceptionDetails) return failure(answer.exceptionDetails);
  const bundle = answer.result.type === "undefined" ? null : await shown(answer.result);
  if (bundle) say({ result: bundle });
  return null;
}

let current = 0;

async function run(code) {
  const mine = ++current;
  const done = await evaluated(code).catch((error) => ({ name: "Error", value: String(error.message), traceback: "" }));
  // An execution that was interrupted has been told of already.
  if (mine === current) say({ done });
}

// Stops waiting for a promise. A loop cannot be stopped from here: the program is ended when it does not answer.
async function interrupt() {
  const mine = current;
  await post("Runtime.evaluate", { expression: "0" });
  if (mine !== current) return;
  current++;
  say({ done: { name: "KeyboardInterrupt", value: "", traceback: "KeyboardInterrupt" } });
}

const lines = readline.createInterface({ input: fs.createReadStream("", { fd: 0, autoClose: false }) });
lines.on("line", (line) => {
  const request = JSON.parse(line);
  if (request.interrupt) void interrupt();
  else void run(request.code);
});
// The kernel is gone, and nobody waits for anything any more.
lines.on("close", () => process.kill(process.pid, "SIGKILL"));
