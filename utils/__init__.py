"""DeepSeek by the Numbers: the helper package of the course.

One module per idea. What chapters use:

- `architecture`, `shapes`  closed-form parameter counts, KV-cache bytes, FLOPs; configurations read for them
- `catalog`       the real DeepSeek models and their documented facts
- `models`        the real language model and the tokenizers, cached for offline use
- `claims`        the ledger of 33 claims and the verdict cards
- `exercises`     check, hint and solution; a quiz for each chapter; progress
- `environment`   whether this machine is ready
- `measure`       paired timing, peak memory, size on disk, perplexity
- `corpus`, `pretrain`  the text of Python's standard library, and the mini DeepSeek trained on it
- `diagnoses`     a medical task, split without leaks
- `launch`        functions of a notebook in several processes
- `planner`, `cards`, `formats`, `deployments`  plans of a deployment; cards; number formats; what is documented
- `bars`          a bar that leaves no trace
- `plots`         one figure style, alt text, text twins
- `colab`         installs what is missing where the course is not checked out

What makes the course of them:

- `course`        the chapters, the set-up cell, the generated parts of notebooks and README
- `languages`, `translate`  Chinese beside English; a chapter in another language
- `runner`, `report`  run the notebooks, write handouts and the report
- `lab`           JupyterLab, at chapter 00
- `handouts`, `slides`, `workshop`  pages to print, decks, timetables
- `bench`         side-by-side ratios, one topic a module
- `files`, `errors`  files that are written at one stroke; what the course foresees

`python -m utils --help` lists what the shell can do.
"""

__version__ = "0.1.0"
