"""The embedded upstream: OpenAI's v1 interfaces with made-up answers, without a key of OpenAI's or a network.

The same request always gets the same answer, in the language of its prompt: Chinese, Russian or English. Streams run at
some forty tokens a second. Any model is served but those whose names begin with `no-such-`: they get OpenAI's 404.

It also fails on demand. A word at the end of the model's name (`demo-cut`, `gpt-4o-mini-demo-cut`), or in brackets in
the prompt (`[demo-cut]`), does this:

| word | what happens |
| --- | --- |
| `demo-slow` | two seconds before the first byte, then a tenth of the usual pace |
| `demo-cut` | the connection breaks off in the middle of the answer |
| `demo-stall` | the answer stops in the middle and the connection stays open |
| `demo-hang` | no answer, not even a head |
| `demo-error` | 500, as OpenAI words it |
"""

from gateway.demo.serving import run, start
from gateway.demo.upstream import build_app

__all__ = ["build_app", "run", "start"]
