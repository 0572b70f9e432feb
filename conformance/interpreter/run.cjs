// What one program does with `@e2b/code-interpreter`; what came of it is the last line.
const { Sandbox } = require('@e2b/code-interpreter')

async function main() {
  const sandbox = await Sandbox.create({ timeoutMs: 120_000 })
  try {
    const stdout = []
    await sandbox.runCode("print('a', flush=True); print('b')", { onStdout: (message) => stdout.push(message.line) })
    await sandbox.runCode('x = 41')
    const value = (await sandbox.runCode('x + 1')).text
    const error = (await sandbox.runCode('1/0')).error.name
    const drawn = await sandbox.runCode("import matplotlib.pyplot as plt\nplt.bar(['a'], [1])\nplt.show()")
    const language = (await sandbox.runCode('2 + 2', { language: 'js' })).text
    const made = await sandbox.createCodeContext({ cwd: '/tmp' })
    const context = (await sandbox.runCode('import os; os.getcwd()', { context: made })).text
    const contexts = (await sandbox.listCodeContexts()).length
    await sandbox.removeCodeContext(made)
    const chart = drawn.results[0].chart.type
    console.log(JSON.stringify({ value, stdout, error, chart, png: drawn.results[0].png.length > 0, language, context, contexts }))
  } finally {
    await sandbox.kill()
  }
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
