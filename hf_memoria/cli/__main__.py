"""`python -m hf_memoria.cli`, for where the entry point is not on the path (torchrun, accelerate launch)."""

from hf_memoria.cli.main import main

raise SystemExit(main())
