"""Usage: compare.py DIRECT ROUTED

Base URLs without a path, such as http://127.0.0.1:8000. Both serve the model that MODEL names
(`m` without it) with the same settings; ends with 1 when a client sees a difference.
"""

import sys

import anthropic_cases  # noqa: F401  (registers its cases)
import openai_cases  # noqa: F401
from both import run

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    direct, routed = (url.rstrip("/") for url in sys.argv[1:])
    sys.exit(0 if run(direct, routed) else 1)
