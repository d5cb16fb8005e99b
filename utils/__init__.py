"""DeepSeek by the Numbers: the helper package of the course.

One module per idea. What chapters use:

- `architecture`, `shapes`  closed-form parameter counts, KV-cache bytes, FLOPs; configurations read for them
- `catalog`       the real DeepSeek models and their documented facts
- `models`        the real language model and the tokenizers, cached for offline use
- `decoding`      the language model on the four bits of its own file
- `claims`        the ledger of claims and the verdict cards
- `exercises`     check, hint and solution; a quiz for each chapter; progress
- `environment`   whether this machine is ready
- `measure`       paired timing, peak memory, size on disk, perplexity
- `corpus`        the text of Python's standard library
- `diagnoses`     a medical task, split without leaks
- `launch`        functions of a notebook in several processes
- `planner`, `cards`, `formats`, `deployments`  plans of a deployment; cards; number formats; what is documented
- `bars`          a bar that leaves no trace
- `plots`         one figure style, alt text, text twins
- `colab`         installs what is missing where the course is not checked out

What makes the course of them:

- `chapters`      titles, questions, minutes; the map
- `shell`         how commands end
- `files`, `errors`  files that are written at one stroke; what the course foresees

`python -m utils --help` lists what a learner's shell can do, `python -m tools --help` an author's.
"""

import os

__version__ = "0.1.0"
# torch's threads wait 0.1 ms for one another, then give the core away: on a busy machine that is ten times as fast.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
