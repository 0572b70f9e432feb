'use strict'
const { test } = require('node:test')
const assert = require('node:assert/strict')
const { Sandbox } = require('e2b')
const { existsSync } = require('node:fs')
const { creator } = require('./support.cjs')

const create = creator()
const skip = !existsSync(`${process.env.CONFORMANCE_BASE_DATA}/criu`) && 'there is no CRIU in the data directory of the set-up'

async function withSleeper() {
  const sandbox = await create({ timeoutMs: 120_000 })
  await sandbox.files.write('kept.txt', 'kept')
  await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  return sandbox
}

async function goesOn(sandbox) {
  assert.equal(await sandbox.files.read('kept.txt'), 'kept')
  assert.equal((await sandbox.commands.run('pgrep -xc sleep')).stdout, '1\n')
}

test('a snapshot goes on where its sandbox was', { skip }, async () => {
  const sandbox = await withSleeper()
  const { snapshotId } = await sandbox.createSnapshot()
  await goesOn(sandbox)
  const made = await Sandbox.create(snapshotId, { timeoutMs: 60_000 })
  try {
    await goesOn(made)
  } finally {
    await made.kill()
  }
  assert.equal(await Sandbox.deleteSnapshot(snapshotId), true)
})

test('forks go on where their sandbox was', { skip }, async () => {
  const sandbox = await withSleeper()
  const forks = await sandbox.fork({ count: 2, timeoutMs: 60_000 })
  assert.equal(forks.length, 2)
  try {
    for (const fork of forks) await goesOn(fork)
  } finally {
    for (const fork of forks) if (fork.kill) await fork.kill()
  }
})
