'use strict'
// What the JavaScript suites share: sandboxes that end with their test, and waiting for an event.
const { cpus, loadavg } = require('node:os')
const { after } = require('node:test')
const { Sandbox } = require('e2b')

const UNKNOWN = 'i' + '0'.repeat(20)

/** A creator of sandboxes that are all killed when the file's tests are over. */
function creator() {
  const made = []
  after(async () => {
    await Promise.all(made.map((sandbox) => sandbox.kill()))
  })
  return async (opts = {}) => {
    const sandbox = await Sandbox.create({ timeoutMs: 300_000, ...opts })
    made.push(sandbox)
    return sandbox
  }
}

/** A time limit that holds on an idle machine, made longer by as much as this one is busy. */
const patience = (ms) => ms * Math.min(4, Math.max(1, loadavg()[0] / cpus().length))

/** Resolves with the first truthy value of `condition`, rejects after `patience(timeoutMs)`. */
async function waitUntil(what, timeoutMs, condition) {
  const deadline = Date.now() + patience(timeoutMs)
  for (;;) {
    const value = await condition()
    if (value) return value
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await sleep(50)
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

module.exports = { UNKNOWN, creator, patience, waitUntil, sleep }
