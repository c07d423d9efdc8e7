"""python -m earthssl"""

from .cli.main import main

raise SystemExit(main())
