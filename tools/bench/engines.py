"""Engines that read the course's GGUF file, timed against the course's own loop on the same file, in turn.

An engine is installed in an environment of its own, build/engines, and only if `ENGINES=1` is set: it is no part of the
course's lock. It runs as a process that waits for a line, writes some tokens, and answers; so pairs can be interleaved.
Both sides begin with the text of the prompt, end with the text of the answer, and use all cores; the engine's time has
the way between two processes in it.
"""

import functools
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from utils import decoding, measure, models
from utils.chapters import ROOT

FOLDER = ROOT / "build" / "engines"
PROMPT, NEW = "The capital of France is Paris. The capital of Germany is", (1, 64)  # tokens: the first, and many

# What to install, and the program: it loads the file named in argv, says "ready", then answers each number of tokens.
ENGINES = {
    "OpenVINO GenAI": (
        ("openvino-genai==2026.4.1.0", "openvino==2026.4.1", "openvino-tokenizers==2026.4.1.0", "numpy==2.4.6"),
        """
import sys
import openvino_genai as engine
pipe = engine.LLMPipeline(sys.argv[1], "CPU")
print("ready", flush=True)
for line in sys.stdin:
    tokens = int(line)
    pipe.generate(
        sys.argv[2], max_new_tokens=tokens, min_new_tokens=tokens, ignore_eos=True, do_sample=False,
        apply_chat_template=False,
    )
    print("done", flush=True)
""",
    ),
}


def installed(packages: tuple[str, ...]) -> Path:
    """The Python of the engines' environment, with these packages; pip says what it does where it has to."""
    python = FOLDER / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(FOLDER, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def wait_for(word: str, engine: subprocess.Popen) -> None:
    """Read what the engine prints up to a line of this word. Raises RuntimeError if it ends before."""
    while (line := engine.stdout.readline()).strip() != word:
        if not line:
            raise RuntimeError("the engine has ended")


def let_write(engine: subprocess.Popen, tokens: int) -> None:
    """Let the engine write so many tokens, and wait for them."""
    print(tokens, file=engine.stdin, flush=True)
    wait_for("done", engine)


def measured_lines() -> Iterator[str]:
    """Time to the first token, and to all, of each engine against our loop."""
    if os.environ.get("ENGINES") != "1":
        yield f"not measured: make bench ONLY=engines ENGINES=1 installs {', '.join(ENGINES)} in build/engines"
        return
    tokenizer, ours = models.load_tokenizer(), decoding.FourBitModel()

    def write(tokens: int) -> str:
        return tokenizer.decode(ours.write(tokenizer(PROMPT, return_tensors="pt").input_ids, tokens)[0])

    for name, (packages, program) in ENGINES.items():
        command = [installed(packages), "-c", program, models.gguf_file(), PROMPT]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as engine:
            wait_for("ready", engine)
            for tokens in NEW:
                ratio = measure.paired_ratio(
                    functools.partial(let_write, engine, tokens), functools.partial(write, tokens)
                )
                yield f"{name}: times as long as our loop for {tokens} token{'s' * (tokens > 1):<2} {ratio}"
            engine.stdin.close()
