"""`python -m train` and `torchrun -m train`: the command `train`."""

from train.cli import main

main()
