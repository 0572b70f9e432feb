'use strict'
const { test } = require('node:test')
const assert = require('node:assert/strict')
const { Sandbox } = require('e2b')

// A public address that leads nowhere.
const address = '11.0.0.1:1080'

test('an egress proxy: shown without its password, and changed while the sandbox runs', async () => {
  const sandbox = await Sandbox.create({ network: { egressProxy: { address, username: 'user', password: 'hidden' } } })
  try {
    const shown = async () => (await Sandbox.getInfo(sandbox.sandboxId)).network.egressProxy
    assert.deepEqual(JSON.parse(JSON.stringify(await shown())), { address, username: 'user' })
    await sandbox.updateNetwork({ egressProxy: { address: '11.0.0.2:1080' } })
    assert.equal((await shown()).address, '11.0.0.2:1080')
    await sandbox.updateNetwork({})
    assert.equal(await shown(), undefined)
  } finally {
    await sandbox.kill()
  }
  await assert.rejects(Sandbox.create({ network: { egressProxy: { address: '10.0.0.1:1080' } } }), /internal \/ denied IP range/)
})
