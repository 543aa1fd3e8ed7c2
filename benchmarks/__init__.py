"""How fast Holdfast is, measured against plain Ray on the same machine in the same minutes: `make bench`.

`workloads` says what is measured, each once for Holdfast and once for plain Ray; `measure` runs one of
them once, in a process of its own; `run` interleaves and repeats; `report` compares. No number in here
is compared with a number from another run or machine.
"""
