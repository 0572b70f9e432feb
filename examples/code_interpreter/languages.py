"""Several languages work on the same files."""

from e2b_code_interpreter import Sandbox

with Sandbox.create() as sandbox:
    sandbox.run_code("import json; json.dump([3, 1, 2], open('numbers.json', 'w'))")
    made = sandbox.run_code(
        "const numbers = JSON.parse(require('fs').readFileSync('numbers.json')); numbers.sort((a, b) => a - b)",
        language="javascript",
    )
    print("JavaScript:", made.text)
    typed = sandbox.run_code("const square = (n: number): number => n * n; [1, 2, 3].map(square)", language="typescript")
    print("TypeScript:", typed.text)
    shell = sandbox.run_code("wc -c < numbers.json", language="bash")
    print("Bash:", "".join(shell.logs.stdout).strip(), "bytes")
    # Each language has a context of its own, and may have more: this one works elsewhere.
    context = sandbox.create_code_context(language="python", cwd="/tmp")
    print("Python works in", sandbox.run_code("import os; os.getcwd()", context=context).text)
