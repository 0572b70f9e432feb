'use strict'
const { test, before } = require('node:test')
const assert = require('node:assert/strict')
const { createHash, randomBytes } = require('node:crypto')
const { CommandExitError, InvalidArgumentError, AuthenticationError, NotFoundError, TimeoutError } = require('e2b')
const { creator, patience, waitUntil, sleep } = require('./support.cjs')

const create = creator()
let sandbox
let run

before(async () => {
  sandbox = await create()
  run = (...args) => sandbox.commands.run(...args)
})

test('output, exit, callbacks', async () => {
  const out = []
  const err = []
  const result = await run('echo out; echo err >&2', { onStdout: (s) => out.push(s), onStderr: (s) => err.push(s) })
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
  assert.deepEqual([out.join(''), err.join('')], ['out\n', 'err\n'])
  await assert.rejects(run('echo x; exit 3'), (error) => error instanceof CommandExitError && error.exitCode === 3 && error.stdout === 'x\n')
  await assert.rejects(run('kill -9 $$'), (error) => error.exitCode === -1 && error.error === 'signal: killed')
})

test('three megabytes and split characters', async () => {
  assert.equal((await run("head -c 3145728 /dev/zero | tr '\\0' x")).stdout.length, 3145728)
  const text = await run("python3 -c \"import sys; sys.stdout.buffer.write(('ä€😀' * 30000).encode())\"")
  assert.equal(text.stdout, 'ä€😀'.repeat(30000))
  assert.equal((await run("head -c 8191 /dev/zero | tr '\\0' a; printf '\\xe2'")).stdout, 'a'.repeat(8191) + '\ufffd')
})

test('user, directory, environment', async () => {
  assert.equal((await run('whoami; pwd')).stdout, 'user\n/home/user\n')
  assert.equal((await run('whoami; pwd', { user: 'root', cwd: '/tmp' })).stdout, 'root\n/tmp\n')
  assert.equal((await run('echo "$K"', { envs: { K: 'a b' } })).stdout, 'a b\n')
  await assert.rejects(run('true', { user: 'nobody-knows' }), AuthenticationError)
  await assert.rejects(run('true', { cwd: '/no/such' }), InvalidArgumentError)
})

test('background, input, list, connect, kill', async () => {
  const handle = await run('cat', { background: true, stdin: true })
  assert.ok((await sandbox.commands.list()).some((p) => p.pid === handle.pid && p.cmd === '/bin/bash'))
  const other = await sandbox.commands.connect(handle.pid)
  await sandbox.commands.sendStdin(handle.pid, 'häl')
  await handle.sendStdin(new TextEncoder().encode('lo\n'))
  await handle.closeStdin()
  assert.equal((await handle.wait()).stdout, 'hällo\n')
  assert.equal((await other.wait()).stdout, 'hällo\n')
  const sleeper = await run('exec sleep 300', { background: true })
  assert.equal(await sleeper.kill(), true)
  await assert.rejects(sleeper.wait(), (error) => error.exitCode === -1)
  assert.equal(await sandbox.commands.kill(sleeper.pid), false)
  await assert.rejects(sandbox.commands.connect(999999), NotFoundError)
})

test('exact input', async () => {
  const data = randomBytes(1_000_003)
  const handle = await run('sha256sum', { background: true, stdin: true })
  for (let at = 0; at < data.length; at += 65536) await handle.sendStdin(data.subarray(at, at + 65536))
  await handle.closeStdin()
  assert.equal((await handle.wait()).stdout.split(' ')[0], createHash('sha256').update(data).digest('hex'))
})

test('disconnect leaves the command running', async () => {
  const handle = await run('sleep 0.5; touch /tmp/went-on; sleep 300', { background: true })
  await handle.disconnect()
  await waitUntil('it went on', 5_000, () => sandbox.files.exists('/tmp/went-on'))
  assert.equal(await sandbox.commands.kill(handle.pid), true)
})

test('timeout', async () => {
  const started = Date.now()
  await assert.rejects(run('exec sleep 300', { timeoutMs: 1_000 }), TimeoutError)
  assert.ok(Date.now() - started < patience(3_000))
  assert.equal((await run('sleep 1.2; echo ok', { timeoutMs: 0 })).stdout, 'ok\n')
})

test('many at once', async () => {
  const results = await Promise.all(Array.from({ length: 50 }, (_, n) => run(`sleep 0.${n % 5}; echo ${n}`)))
  assert.deepEqual(results.map((result) => result.stdout), Array.from({ length: 50 }, (_, n) => `${n}\n`))
})

test('terminal', async () => {
  let output = ''
  const terminal = await sandbox.pty.create({ cols: 90, rows: 20, onData: (data) => (output += new TextDecoder().decode(data)) })
  const type = (text) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(text))
  await type('stty size\n')
  await waitUntil('first size', 5_000, () => output.includes('20 90'))
  await sandbox.pty.resize(terminal.pid, { cols: 111, rows: 33 })
  await type('stty size; echo $TERM\n')
  await waitUntil('second size', 5_000, () => output.includes('33 111') && output.includes('xterm-256color'))
  await terminal.disconnect()
  let again = ''
  const connected = await sandbox.pty.connect(terminal.pid, { onData: (data) => (again += new TextDecoder().decode(data)) })
  await type('echo again-$((1+1))\n')
  await waitUntil('output after reconnection', 5_000, () => again.includes('again-2'))
  assert.equal(await sandbox.pty.kill(terminal.pid), true)
  await assert.rejects(connected.wait(), CommandExitError)
  await sleep(100)
  assert.equal(await sandbox.pty.kill(terminal.pid), false)
})
