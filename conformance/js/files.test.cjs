'use strict'
const { test, before } = require('node:test')
const assert = require('node:assert/strict')
const http = require('node:http')
const { randomBytes, randomUUID } = require('node:crypto')
const { FileNotFoundError, InvalidArgumentError, FileType, FilesystemEventType } = require('e2b')
const { creator, waitUntil } = require('./support.cjs')

const create = creator()
let sandbox
let files

before(async () => {
  sandbox = await create()
  files = sandbox.files
})

async function place() {
  const path = `/home/user/${randomUUID()}`
  await files.makeDir(path)
  return path
}

async function bytes(stream) {
  const pieces = []
  for await (const piece of stream) pieces.push(piece)
  return Buffer.concat(pieces)
}

test('every format of write and read', async () => {
  const dir = await place()
  const data = randomBytes(300_000)
  const ways = {
    string: 'grüße',
    buffer: data.buffer.slice(data.byteOffset, data.byteOffset + data.length),
    blob: new Blob([data]),
    stream: new Blob([data]).stream(),
  }
  for (const [name, value] of Object.entries(ways)) {
    const info = await files.write(`${dir}/${name}`, value)
    assert.deepEqual([info.path, info.name, info.type], [`${dir}/${name}`, name, FileType.FILE])
  }
  assert.equal(await files.read(`${dir}/string`), 'grüße')
  for (const name of ['buffer', 'blob', 'stream']) {
    assert.ok(data.equals(Buffer.from(await files.read(`${dir}/${name}`, { format: 'bytes' }))), name)
  }
  assert.ok(data.equals(Buffer.from(await (await files.read(`${dir}/blob`, { format: 'blob' })).arrayBuffer())))
  assert.ok(data.equals(await bytes(await files.read(`${dir}/blob`, { format: 'stream' }))))
})

test('empty, compressed, octets, big', async () => {
  const dir = await place()
  await files.write(`${dir}/empty`, '')
  assert.equal(await files.read(`${dir}/empty`), '')
  assert.equal((await files.read(`${dir}/empty`, { format: 'bytes' })).length, 0)
  const data = randomBytes(5_000_000)
  for (const opts of [{ gzip: true }, { useOctetStream: true }, { useOctetStream: false }]) {
    await files.write(`${dir}/d`, new Blob([data]), opts)
    assert.ok(data.equals(Buffer.from(await files.read(`${dir}/d`, { format: 'bytes', gzip: opts.gzip }))), JSON.stringify(opts))
  }
  const big = Buffer.alloc(64 << 20, randomBytes(4096))
  await files.write(`${dir}/big`, new Blob([big]).stream())
  assert.ok(big.equals(await bytes(await files.read(`${dir}/big`, { format: 'stream' }))))
})

test('many files, odd names', async () => {
  const dir = await place()
  const names = ['with space', "quote'\"", 'ünïcödé-漢字-😀', 'a&b=c%20#?+', 'new\nline', 'x'.repeat(200)]
  const written = await files.writeFiles(names.map((name) => ({ path: `${dir}/${name}`, data: name })))
  assert.deepEqual(written.map((info) => info.path), names.map((name) => `${dir}/${name}`))
  for (const name of names) assert.equal(await files.read(`${dir}/${name}`), name)
  assert.deepEqual((await files.list(dir)).map((entry) => entry.name).sort(), names.slice().sort())
})

test('directories, rename, remove, info', async () => {
  const dir = await place()
  assert.equal(await files.makeDir(`${dir}/a/b`), true)
  assert.equal(await files.makeDir(`${dir}/a/b`), false)
  await files.write(`${dir}/a/b/file`, '12345', { metadata: { key: 'value' } })
  assert.deepEqual((await files.list(dir, { depth: 3 })).map((e) => e.path.slice(dir.length + 1)), ['a', 'a/b', 'a/b/file'])
  const info = await files.getInfo(`${dir}/a/b/file`)
  assert.deepEqual([info.size, info.mode, info.permissions, info.owner], [5, 0o644, '-rw-r--r--', 'user'])
  assert.deepEqual(info.metadata, { key: 'value' })
  assert.ok(Math.abs(Date.now() - info.modifiedTime) < 60_000)
  assert.equal((await files.rename(`${dir}/a/b/file`, `${dir}/moved`)).path, `${dir}/moved`)
  await sandbox.commands.run(`ln -s moved ${dir}/link`)
  const link = await files.getInfo(`${dir}/link`)
  assert.deepEqual([link.type, link.symlinkTarget], [FileType.FILE, `${dir}/moved`])
  await files.remove(`${dir}/a`)
  assert.equal(await files.exists(`${dir}/a`), false)
  await assert.rejects(files.read(`${dir}/missing`), FileNotFoundError)
  await assert.rejects(files.list(`${dir}/missing`), FileNotFoundError)
  await assert.rejects(files.list(`${dir}/moved`), InvalidArgumentError)
})

test('watch', async () => {
  const dir = await place()
  const seen = []
  let ended = 0
  const watch = await files.watchDir(dir, (event) => seen.push(event), { recursive: true, includeEntry: true, onExit: () => ended++ })
  const has = (name, type) => () => seen.some((event) => event.name === name && event.type === type)
  await files.write(`${dir}/file`, 'x')
  await waitUntil('write', 5_000, has('file', FilesystemEventType.WRITE))
  await files.makeDir(`${dir}/sub`)
  await files.write(`${dir}/sub/inner`, 'x')
  await waitUntil('write below', 5_000, has('sub/inner', FilesystemEventType.WRITE))
  await files.rename(`${dir}/file`, `${dir}/other`)
  await waitUntil('rename', 5_000, has('file', FilesystemEventType.RENAME))
  await files.remove(`${dir}/other`)
  await waitUntil('remove', 5_000, has('other', FilesystemEventType.REMOVE))
  await watch.stop()
  await waitUntil('the end', 5_000, () => ended === 1)
  await assert.rejects(files.watchDir(`${dir}/missing`, () => {}), FileNotFoundError)
})

test('signed links', async () => {
  await files.write('signed.txt', 'content')
  const way = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '49983' }
  const get = (url) => fetch(url, { headers: way })
  const good = await get(await sandbox.downloadUrl('signed.txt', { useSignatureExpiration: 60_000 }))
  assert.equal(await good.text(), 'content')
  const bad = await get((await sandbox.downloadUrl('signed.txt')).replace('signed.txt', 'other.txt'))
  assert.equal(bad.status, 401)
  const form = new FormData()
  form.append('file', 'uploaded')
  const upload = await fetch(await sandbox.uploadUrl('up.txt'), { method: 'POST', body: form, headers: way })
  assert.deepEqual(await upload.json(), [{ path: '/home/user/up.txt', name: 'up.txt', type: 'file' }])
  assert.equal(await files.read('up.txt'), 'uploaded')
})

test('ports', async () => {
  await sandbox.commands.run('cd /tmp; echo page > index.html; nohup python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 &')
  const url = new URL(process.env.E2B_API_URL)
  const get = (headers) =>
    new Promise((resolve, reject) => {
      http
        .get({ host: url.hostname, port: url.port, path: '/index.html', headers }, (response) => {
          let text = ''
          response.on('data', (piece) => (text += piece))
          response.on('end', () => resolve({ status: response.statusCode, text }))
        })
        .on('error', reject)
    })
  const host = sandbox.getHost(8000)
  assert.ok(host.startsWith(`8000-${sandbox.sandboxId}.`))
  await waitUntil('the server', 20_000, async () => (await get({ host })).text === 'page\n')
  assert.equal((await get({ 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '8000' })).text, 'page\n')
  const closed = await fetch(`${url.origin}/`, { headers: { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '9998' } })
  assert.equal(closed.status, 502)
  assert.deepEqual(await closed.json(), { sandboxId: sandbox.sandboxId, message: 'The sandbox is running but port is not open', port: 9998, code: 502 })
})
