'use strict'
const { test, before, after } = require('node:test')
const assert = require('node:assert/strict')
const { mkdtempSync, writeFileSync, mkdirSync, rmSync } = require('node:fs')
const { tmpdir } = require('node:os')
const { join } = require('node:path')
const { randomBytes } = require('node:crypto')
const { Template, waitForFile } = require('e2b')
const { creator } = require('./support.cjs')

const create = creator()
const directory = mkdtempSync(join(tmpdir(), 'soulbox-js-templates-'))
const names = []

before(() => {
  mkdirSync(join(directory, 'folder'))
  writeFileSync(join(directory, 'folder/one.txt'), 'one')
  writeFileSync(join(directory, 'folder/two.txt'), 'two')
})

after(() => rmSync(directory, { recursive: true, force: true }))

const fresh = () => {
  names.push(`js-${randomBytes(6).toString('hex')}`)
  return names.at(-1)
}

async function build(template, name, options = {}) {
  const messages = []
  await Template.build(template, name, { cpuCount: 1, memoryMB: 512, onBuildLogs: (entry) => messages.push(entry.message), ...options })
  return messages
}

test('steps, files and a start command', async () => {
  const name = fresh()
  const template = Template({ fileContextPath: directory })
    .fromTemplate('base')
    .setEnvs({ GREETING: 'Hello, World!' })
    .copy('folder/*', '/srv/files/', { mode: 0o640, user: 'root' })
    .runCmd('echo "$GREETING" > /tmp/greeting')
    .setWorkdir('/srv')
    .setStartCmd('touch /tmp/ready && sleep 987', waitForFile('/tmp/ready'))
  const first = await build(template, name)
  assert.ok(first.some((line) => line.startsWith('[builder 3/4] RUN echo "$GREETING"')), first.join('\n'))
  const sandbox = await create({ template: name })
  const run = async (command, options) => (await sandbox.commands.run(command, options)).stdout
  assert.equal(await run('cat /srv/files/*.txt; stat -c %a /srv/files/one.txt', { user: 'root' }), 'onetwo640\n')
  assert.equal(await run('cat /tmp/greeting; pwd'), 'Hello, World!\n/srv\n')
  assert.match(await run("pgrep -f 'sleep 987'"), /\d/)
  const second = await build(template, name)
  assert.ok(second.some((line) => line.startsWith('CACHED [builder 1/4] ENV GREETING Hello, World!')), second.join('\n'))
})

test('a Dockerfile, read by the package', async () => {
  const name = fresh()
  const template = Template({ fileContextPath: directory }).fromDockerfile(
    'FROM e2bdev/base\nENV KEY=value\nWORKDIR /srv/app\nCOPY folder/one.txt ./\nRUN echo "$KEY" > key\n',
  )
  await build(template, name)
  const sandbox = await create({ template: name })
  assert.equal((await sandbox.commands.run('cat /srv/app/one.txt /srv/app/key')).stdout, 'onevalue\n')
})

test('what fails says where', async () => {
  const failing = Template().fromTemplate('base').runCmd('true').runCmd('exit 3')
  await assert.rejects(build(failing, fresh()), /failed to run command 'exit 3': exit status 3/)
  const nobody = Template().fromTemplate('base').runCmd('whoami', { user: 'root123' })
  await assert.rejects(build(nobody, fresh()), /failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'/)
  await assert.rejects(build(Template().fromTemplate('no-such-template'), fresh()), /template 'no-such-template' not found/)
  await assert.rejects(build(Template().fromImage('127.0.0.1:1/nothing'), fresh()), /address that is not public/)
})

test('tags and existence', async () => {
  const name = fresh()
  await build(Template().fromTemplate('base').runCmd('echo 1 > /tmp/n'), `${name}:one`)
  assert.equal(await Template.exists(name), true)
  assert.equal(await Template.exists(`${name}-not`), false)
  const assigned = await Template.assignTags(`${name}:one`, ['stable', 'default'])
  assert.deepEqual([...assigned.tags].sort(), ['default', 'stable'])
  const sandbox = await create({ template: `${name}:stable` })
  assert.equal((await sandbox.commands.run('cat /tmp/n')).stdout, '1\n')
  await Template.removeTags(name, 'stable')
  const tags = await Template.getTags(name)
  assert.deepEqual(tags.map((tag) => tag.tag).sort(), ['default', 'one'])
})
