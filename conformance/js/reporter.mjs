// Writes one result line per test for the runner, and failures for people.
// Separate from the tests because the runner reads the same lines from every suite.
import { appendFileSync } from 'node:fs'
import { basename } from 'node:path'

function reasonOf(details) {
  const error = details?.error
  const cause = error?.cause ?? error
  return String(cause?.stack ?? cause ?? '').slice(0, 6000)
}

export default async function* report(source) {
  for await (const { type, data } of source) {
    if (type === 'test:stderr' || type === 'test:stdout') yield data.message
    if (type !== 'test:pass' && type !== 'test:fail') continue
    // Node reports each file as a test too; it counts only when the file itself could not run.
    const isFile = data.name.endsWith('.test.cjs')
    if (isFile && (type === 'test:pass' || data.details?.error?.failureType === 'subtestsFailed')) continue
    if (data.details?.type === 'suite') continue
    const skipped = data.skip !== undefined && data.skip !== false
    // A test that a name filter left out is not a skip of ours.
    if (skipped && /does not match (name )?pattern/.test(String(data.skip))) continue
    const result = {
      name: `${basename(data.file ?? '')}: ${data.name}`,
      outcome: skipped ? 'skipped' : type === 'test:pass' ? 'passed' : 'failed',
      seconds: Math.round((data.details?.duration_ms ?? 0) / 10) / 100,
      reason: skipped ? String(data.skip) : type === 'test:fail' ? reasonOf(data.details) : '',
    }
    if (process.env.CONFORMANCE_RESULTS) appendFileSync(process.env.CONFORMANCE_RESULTS, JSON.stringify(result) + '\n')
    yield `${result.outcome} ${result.name}\n${result.reason ? result.reason + '\n' : ''}`
  }
}
