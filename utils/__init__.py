"""DeepSeek by the Numbers: the helper package of the course.

One module per idea:

- `architecture`  closed-form parameter counts, KV-cache bytes, FLOPs
- `catalog`       the real DeepSeek models and their documented facts
- `models`        the real language model and the tokenizers, cached for offline use
- `claims`        the ledger of 33 claims and the verdict cards
- `exercises`     check, hint and solution; a quiz for each chapter; progress
- `learner`       what is solved, kept on this machine
- `measure`       paired timing, peak memory, size on disk, perplexity
- `corpus`, `pretrain`  the text of Python's standard library, and the mini DeepSeek trained on it
- `diagnoses`     a medical task, split without leaks
- `launch`        functions of a notebook in several processes
- `planner`       plans of a deployment
- `bars`          a bar that leaves no trace
- `bench`         side-by-side ratios, one topic a module
- `plots`         one figure style, alt text, text twins
- `course`        the chapters, the bootstrap cell, the generated parts of the README
- `colab`         installs what is missing where the course is not checked out
- `files`         files that are written at one stroke
- `runner`, `report`  run the notebooks, write handouts and the report

`python -m utils --help` lists what the shell can do.
"""

__version__ = "0.1.0"
