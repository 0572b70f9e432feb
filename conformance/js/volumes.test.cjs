'use strict'
const { test } = require('node:test')
const assert = require('node:assert/strict')
const { randomUUID } = require('node:crypto')
const { Volume, VolumeError, VolumeNotFoundError, SandboxError } = require('e2b')
const { creator } = require('./support.cjs')

const create = creator()

test('a volume: made, filled, mounted twice, removed', async () => {
  const name = `js-${randomUUID()}`
  const volume = await Volume.create(name)
  try {
    assert.equal((await Volume.getInfo(volume.volumeId)).name, name)
    assert.ok((await Volume.list()).some((info) => info.volumeId === volume.volumeId))
    await assert.rejects(Volume.create(name), (error) => error instanceof VolumeError && /already exists/.test(error.message))
    const again = await Volume.connect(volume.volumeId)

    const stat = await volume.writeFile('/a/../f.txt', 'text ä')
    assert.deepEqual([stat.path, stat.type, stat.size, stat.mode, stat.uid], ['/f.txt', 'file', 7, 0o644, 0])
    assert.ok(stat.mtime instanceof Date && Math.abs(Date.now() - stat.mtime) < 60_000)
    assert.equal(await again.readFile('/f.txt'), 'text ä')
    const stream = await again.readFile('/f.txt', { format: 'stream' })
    assert.equal(await new Response(stream).text(), 'text ä')
    await assert.rejects(volume.writeFile('/f.txt', 'x'), VolumeError)
    await volume.writeFile('/f.txt', new Blob(['other']), { force: true, uid: 1000, gid: 1000, mode: 0o600 })
    assert.deepEqual([...(await volume.readFile('/f.txt', { format: 'bytes' }))], [...Buffer.from('other')])
    await volume.makeDir('/d/e', { force: true })
    await assert.rejects(volume.makeDir('/d'), VolumeError)
    assert.deepEqual((await volume.list('/', { depth: 2 })).map((entry) => entry.path), ['/d', '/d/e', '/f.txt'])
    assert.equal((await volume.updateMetadata('/d', { mode: 0o700 })).mode, 0o700)
    assert.equal(await volume.exists('/none'), false)

    const one = await create({ volumeMounts: { '/data': volume } })
    const other = await create({ volumeMounts: { '/mnt/data': name } })
    await one.commands.run('echo live > /data/live')
    assert.equal((await other.commands.run('cat /mnt/data/live /mnt/data/f.txt')).stdout, 'live\nother')
    assert.deepEqual((await one.getInfo()).volumeMounts, [{ name, path: '/data' }])
    await assert.rejects(
      create({ volumeMounts: { '/x': 'no-such', y: volume } }),
      (error) => error instanceof SandboxError && error.message.includes("invalid mounts:\n\t- volume mount #0: volume 'no-such' not found\n\t- volume mount #1: path must be absolute"),
    )
    await volume.remove('/d')
    await assert.rejects(volume.list('/d'), (error) => error.name.startsWith('Volume') || error.name === 'NotFoundError')
  } finally {
    assert.equal(await Volume.destroy(volume.volumeId), true)
  }
  assert.equal(await Volume.destroy(volume.volumeId), false)
  await assert.rejects(Volume.getInfo(volume.volumeId), VolumeNotFoundError)
})
