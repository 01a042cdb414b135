"""`python -m distmlp`, as torchrun and srun start it."""

from distmlp.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
