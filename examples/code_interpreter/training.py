"""Something that takes a while tells how far it is, and is stopped when it is good enough."""

from e2b_code_interpreter import Sandbox

CODE = """
import time
import numpy as np

random = np.random.default_rng(1)
x = random.normal(size=(2000, 3))
y = x @ [2.0, -1.0, 0.5] + 0.1 * random.normal(size=2000)
weights = np.zeros(3)
for epoch in range(1, 31):
    weights -= 0.1 * x.T @ (x @ weights - y) / len(y)
    if epoch % 5 == 0:
        print(f"epoch {epoch}: loss {np.mean((x @ weights - y) ** 2):.4f}", flush=True)
    time.sleep(0.05)
[round(float(weight), 2) for weight in weights]
"""

with Sandbox.create() as sandbox:
    execution = sandbox.run_code(
        CODE,
        on_stdout=lambda message: print("  log:", message.line, end=""),
        on_error=lambda error: print("failed:", error.value),
        timeout=120,
    )
    print("weights:", execution.text)
