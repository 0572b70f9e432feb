"""A model that runs code to answer a question.

The model is a stand-in on this machine that speaks a small part of the usual chat API: it asks for the tool, reads what
it said, mends its own mistake, and answers. Any server of that API can take its place: MODEL_URL=https://…/v1.
"""

import json
import os
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from e2b_code_interpreter import Sandbox

QUESTION = "What is the sum of the first hundred primes?"
TRIES = [
    "sum(primes[:100])",
    """
primes = [n for n in range(2, 600) if all(n % d for d in range(2, int(n**0.5) + 1))]
sum(primes[:100])
""",
]


class StandIn(BaseHTTPRequestHandler):
    def do_POST(self):
        messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        results = [message["content"] for message in messages if message["role"] == "tool"]
        if results and "Error" not in results[-1]:
            answer = {"role": "assistant", "content": f"The sum is {results[-1]}."}
        else:
            code = json.dumps({"code": TRIES[len(results)]})
            call = {"id": f"call{len(results)}", "type": "function", "function": {"name": "run_python", "arguments": code}}
            answer = {"role": "assistant", "content": None, "tool_calls": [call]}
        body = json.dumps({"choices": [{"message": answer}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def ask(url: str, messages: list) -> dict:
    tool = {
        "type": "function",
        "function": {
            "name": "run_python",
            "description": "Runs Python in a kernel that keeps its state, and returns the last value or the error.",
            "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
        },
    }
    body = json.dumps({"model": os.environ.get("MODEL", "stand-in"), "messages": messages, "tools": [tool]}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('MODEL_KEY', '')}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", body, headers)) as response:
        return json.load(response)["choices"][0]["message"]


def run(sandbox: Sandbox, code: str) -> str:
    execution = sandbox.run_code(code)
    if execution.error:
        return f"{execution.error.name}: {execution.error.value}"
    return execution.text or "".join(execution.logs.stdout)


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = os.environ.get("MODEL_URL", f"http://127.0.0.1:{server.server_port}/v1")
    messages = [{"role": "user", "content": QUESTION}]
    with Sandbox.create() as sandbox:
        # A model that never stops asking is stopped.
        for _ in range(8):
            message = ask(url, messages)
            messages.append(message)
            calls = message.get("tool_calls")
            if not calls:
                print(message["content"])
                return
            for call in calls:
                result = run(sandbox, json.loads(call["function"]["arguments"])["code"])
                print(f"{call['function']['name']} → {result}")
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    raise SystemExit("the model has not answered")


main()
