'use strict'
const { test } = require('node:test')
const assert = require('node:assert/strict')
const { randomUUID } = require('node:crypto')
const { Sandbox, SandboxNotFoundError, AuthenticationError, SandboxError } = require('e2b')
const { UNKNOWN, creator, waitUntil, sleep } = require('./support.cjs')

const create = creator()

async function all(paginator) {
  const found = []
  while (paginator.hasNext) found.push(await paginator.nextItems())
  return found
}

test('the package is the one meant', () => {
  assert.equal(require('e2b/package.json').version, '2.51.0')
})

test('create, use, info, kill', async () => {
  const sandbox = await create({ timeoutMs: 120_000, metadata: { a: 'b' }, envs: { E: 'ü' } })
  assert.match(sandbox.sandboxId, /^i[a-z0-9]{20}$/)
  assert.equal((await sandbox.commands.run('echo $E')).stdout, 'ü\n')
  const info = await sandbox.getInfo()
  assert.deepEqual(info.metadata, { a: 'b' })
  assert.equal(info.name, 'base')
  assert.equal(info.state, 'running')
  assert.equal(info.endAt - info.startedAt, 120_000)
  assert.equal(await sandbox.isRunning(), true)
  assert.equal(await sandbox.kill(), true)
  assert.equal(await sandbox.isRunning(), false)
  assert.equal(await sandbox.kill(), false)
  await assert.rejects(sandbox.getInfo(), SandboxNotFoundError)
})

test('defaults are the server’s', async () => {
  const sandbox = await Sandbox.create()
  try {
    const info = await sandbox.getInfo()
    assert.equal(info.endAt - info.startedAt, 300_000)
    assert.deepEqual(info.metadata, {})
  } finally {
    await sandbox.kill()
  }
})

test('connect', async () => {
  const sandbox = await create()
  const before = (await sandbox.getInfo()).endAt.getTime()
  const other = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 10_000 })
  assert.equal((await other.commands.run('echo over')).stdout, 'over\n')
  assert.equal((await other.getInfo()).endAt.getTime(), before)
  await other.connect({ timeoutMs: 900_000 })
  assert.ok((await other.getInfo()).endAt.getTime() > before)
  await assert.rejects(Sandbox.connect(UNKNOWN), SandboxNotFoundError)
})

test('list: filter, order, pages', async () => {
  const mark = randomUUID()
  const ids = []
  for (let n = 0; n < 3; n++) ids.push((await create({ metadata: { mark, 'o&d=d ü': '50% +' } })).sandboxId)
  const query = { metadata: { mark, 'o&d=d ü': '50% +' }, state: ['running'] }
  const pages = await all(Sandbox.list({ query, limit: 2 }))
  assert.deepEqual(pages.map((page) => page.length), [2, 1])
  assert.deepEqual(pages.flat().map((info) => info.sandboxId), ids.slice().reverse())
  const upwards = await all(Sandbox.list({ query, order: 'asc' }))
  assert.deepEqual(upwards.flat().map((info) => info.sandboxId), ids)
  assert.deepEqual((await all(Sandbox.list({ query: { metadata: { mark }, state: ['paused'] } }))).flat(), [])
})

test('timeouts are honoured', async () => {
  const sandbox = await create({ timeoutMs: 2_000 })
  await waitUntil('the sandbox is gone', 4_000, async () => !(await sandbox.isRunning()))
  const other = await create()
  await other.setTimeout(1_000)
  await waitUntil('the sandbox is gone', 3_000, async () => !(await other.isRunning()))
  await assert.rejects(Sandbox.setTimeout(UNKNOWN, 1_000), SandboxNotFoundError)
})

test('errors', async () => {
  await assert.rejects(Sandbox.create('no-such-template'), (error) => error instanceof SandboxError && /404/.test(error.message))
  await assert.rejects(Sandbox.create({ apiKey: 'e2b_' + '0'.repeat(40) }), AuthenticationError)
  await assert.rejects(Sandbox.create({ timeoutMs: 25 * 3600 * 1000 }), SandboxError)
  assert.equal(await Sandbox.kill(UNKNOWN), false)
})

test('metrics', async () => {
  const sandbox = await create()
  const samples = await waitUntil('a sample', 30_000, async () => {
    const found = await sandbox.getMetrics()
    return found.length ? found : (await sleep(400), null)
  })
  const sample = samples.at(-1)
  assert.ok(sample.cpuCount >= 1 && sample.memUsed > 0 && sample.memUsed <= sample.memTotal && sample.diskTotal > 0)
})

test('what a killed sandbox does to a running command', async () => {
  const sandbox = await create()
  const handle = await sandbox.commands.run('sleep 60', { background: true })
  // Expected before it happens: a rejection that nobody awaits yet would end the process.
  const told = assert.rejects(handle.wait(), (error) => error.name === 'TimeoutError' && /sandbox was killed or reached its end of life/.test(error.message))
  await sandbox.kill()
  await told
})

test('what the end of its time does to a running command', async () => {
  const sandbox = await create({ timeoutMs: 2_000 })
  await assert.rejects(sandbox.commands.run('sleep 60'), (error) => error.name === 'TimeoutError' && /sandbox was killed or reached its end of life/.test(error.message))
})

test('calls after the kill', async () => {
  const sandbox = await create()
  await sandbox.kill()
  await assert.rejects(sandbox.commands.run('true'), SandboxNotFoundError)
  await assert.rejects(sandbox.files.read('/etc/hostname'), { name: 'TimeoutError' })
})

for (const keepMemory of [true, false]) {
  test(`pause and connect, ${keepMemory ? 'with' : 'without'} memory`, async () => {
    const sandbox = await create({ timeoutMs: 120_000, envs: { E: 'kept' } })
    await sandbox.files.write('kept.txt', 'kept')
    await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
    assert.equal(await sandbox.pause({ keepMemory }), true)
    assert.equal(await sandbox.isRunning(), false)
    assert.equal((await Sandbox.getInfo(sandbox.sandboxId)).state, 'paused')
    assert.equal(await sandbox.pause(), false)
    const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 60_000 })
    assert.equal(await again.files.read('kept.txt'), 'kept')
    const { stdout } = await again.commands.run('echo $E; pgrep -xc sleep || true')
    assert.equal(stdout, keepMemory ? 'kept\n1\n' : 'kept\n0\n')
    assert.equal((await sandbox.commands.run('echo same')).stdout, 'same\n')
  })
}

test('paused at its end time and brought back by traffic', async () => {
  const sandbox = await create({ timeoutMs: 3_000, lifecycle: { onTimeout: 'pause', autoResume: true } })
  await sandbox.files.write('kept.txt', 'kept')
  await waitUntil('it is paused', 8_000, async () => (await Sandbox.getInfo(sandbox.sandboxId)).state === 'paused')
  assert.equal(await sandbox.files.read('kept.txt'), 'kept')
  assert.equal((await Sandbox.getInfo(sandbox.sandboxId)).state, 'running')
})
