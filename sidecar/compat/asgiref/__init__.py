"""asgiref's names on a sidecar bridge: ``sync``, ``local``, ``wsgi``, and the small modules beside them.

Code that was written for asgiref runs with ``sidecar.compat.asgiref`` in its imports; code that cannot be changed
(Django, Channels) once ``sys.modules["asgiref"]`` is this package, before anything imports asgiref.
"""

from __future__ import annotations

from sidecar.compat.asgiref import _alias

# Of the release whose names and behaviour these are: who depends on asgiref asks for it.
__version__ = "3.13.0"

_alias.install()
del _alias
