'use strict'
const { test } = require('node:test')
const assert = require('node:assert/strict')
const { randomUUID } = require('node:crypto')
const { Secret, SecretError, SecretNotFoundError } = require('e2b')

test('a secret: made, changed, listed, removed', async () => {
  const name = `js-${randomUUID()}`
  const made = await Secret.create(name, 'hidden', { metadata: { a: 'b' } })
  try {
    assert.match(made.secretId, /^sec_/)
    assert.deepEqual([made.name, made.version, made.metadata], [name, 1, { a: 'b' }])
    assert.ok(!JSON.stringify(made).includes('hidden'))
    await assert.rejects(Secret.create(name, 'hidden'), (error) => error instanceof SecretError)
    const changed = await Secret.update(name, 'other')
    assert.deepEqual([changed.version, changed.metadata], [2, { a: 'b' }])
    assert.deepEqual((await Secret.update(made.secretId, 'other', { metadata: {} })).metadata, {})
    assert.equal((await Secret.getInfo(name)).secretId, made.secretId)
    const names = []
    for (const pages = Secret.list({ limit: 1 }); pages.hasNext; ) names.push(...(await pages.nextItems()).map((secret) => secret.name))
    assert.ok(names.includes(name))
    assert.equal(Secret.fill(name), '${e2b.secrets.' + name + '}')
  } finally {
    assert.equal(await Secret.destroy(name), true)
  }
  assert.equal(await Secret.destroy(made.secretId), false)
  await assert.rejects(Secret.getInfo(name), SecretNotFoundError)
})
