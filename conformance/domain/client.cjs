'use strict'
// A program of somebody who has been given a domain and a key. Prints what it saw, as JSON.
const { Sandbox } = require('e2b')

async function main() {
  const sandbox = await Sandbox.create({ timeoutMs: 120_000 })
  try {
    const seen = { command: (await sandbox.commands.run('echo hello')).stdout, id: sandbox.sandboxId }
    await sandbox.files.write('/tmp/file', 'written')
    seen.file = await sandbox.files.read('/tmp/file')
    await sandbox.commands.run('cd /tmp && echo reached > index.html && python3 -m http.server 8000', { background: true, timeoutMs: 0 })
    await sandbox.commands.run('until curl -s localhost:8000 > /dev/null; do sleep 0.05; done')
    seen.host = sandbox.getHost(8000)
    const page = await fetch(`https://${seen.host}/`)
    seen.page = [page.status, (await page.text()).trim()]
    const download = await fetch(await sandbox.downloadUrl('/tmp/file'))
    seen.download = [download.status, await download.text()]
    console.log(JSON.stringify(seen))
  } finally {
    await sandbox.kill()
  }
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
