"""The first word of every notebook's set-up cell: a name that no other package has.

`utils` is a common name. A file or folder of that name in the working folder or on PYTHONPATH would be taken for the
course's own, which is found last. Importing this module imports the course's `utils`, wherever this module stands, and
drops another one. Only the standard library is imported besides, because nothing else need be there yet.
"""

import sys
from importlib import import_module
from pathlib import Path

HOME = Path(__file__).resolve().parent

if Path(getattr(sys.modules.get("utils"), "__file__", None) or "another").resolve().parent != HOME / "utils":
    for name in [name for name in sys.modules if name.partition(".")[0] == "utils"]:
        del sys.modules[name]
    sys.path.insert(0, str(HOME))
    import_module("utils")  # from here on its modules are found beside it, so the path can be as it was
    sys.path.remove(str(HOME))

set_up = import_module("utils.colab").set_up
