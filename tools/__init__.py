"""What authors and teachers run; notebooks import nothing from here."""

import sys

# What checks notebooks would first compile a grammar of web addresses: a second in every process, for nothing here.
sys.modules.setdefault("rfc3987_syntax", None)
