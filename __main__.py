"""python -m earthssl"""

from .cli import main

raise SystemExit(main())
